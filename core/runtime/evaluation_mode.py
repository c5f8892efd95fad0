"""The modes that a model runs in, restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def no_grad_no_autocast(device: torch.device) -> Iterator[None]:
    """No gradients, and neither the caller's autocast nor inference mode, inside the block.

    Args:
        device: the device whose autocast is switched off.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients switched on, inside the block only.

    Restored afterwards, whether the block ends well or not: the mode of every module, each
    parameter's `requires_grad`, and the random state. Autocast and inference mode of the caller do
    not reach inside.
    """
    modules = list(model.modules())
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    device = parameters[0].device if parameters else torch.device("cpu")
    training = [module for module in modules if module.training]
    trainable = [p for p in parameters if p.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(no_grad_no_autocast(device))
        stack.enter_context(torch.enable_grad())
        try:
            for module in training:
                module.training = False
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for module in training:
                module.training = True
            for parameter in trainable:
                parameter.requires_grad_(True)

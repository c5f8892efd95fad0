"""The modes that a model runs in, restored afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


class _EagerSwitch:
    """Turns compiled code off while any block asks for it; the switch of torch is one for all."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.stack = ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if self.blocks == 0:
                self.stack.enter_context(torch.compiler.set_stance("force_eager"))
            self.blocks += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.blocks -= 1
            if self.blocks == 0:
                self.stack.close()


_EAGER = _EagerSwitch()


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
    not reach inside. What `torch.compile` has made runs as the original code: compiled code is not
    seen by hooks, and would be compiled anew for each way of looking at it.
    """
    modules = list(model.modules())
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    device = parameters[0].device if parameters else torch.device("cpu")
    training = [module for module in modules if getattr(module, "training", False)]
    trainable = [p for p in parameters if p.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(no_grad_no_autocast(device))
        stack.enter_context(torch.enable_grad())
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(_EAGER)
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

"""Start a forward pass in the middle of a model.

`record_until` records what runs before a layer, in a pass of one image. Within
`resume_after`, the model is called as ever, but all that was recorded is answered from the record,
and the layer gives any output one wants. So many variants of one layer's output cost only what
comes after the layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.runtime.capture import hook_every_module
from core.runtime.model_call import call_for_model


@dataclass
class PassUntilLayer:
    """What a model had done when a layer was reached, in a forward pass of one image.

    Attributes:
        layer: the layer.
        calls: the modules that had finished when that call of the layer ended, each with a copy of
            its output, in order of execution; modules inside such a module are left out.
        output: a copy of the layer's output.
        copies: whether a recorded output is copied for each row it is handed out for; needed where
            a model changes it in place.
    """

    layer: nn.Module
    calls: list[tuple[nn.Module, Any]] = field(default_factory=list)
    output: Any = None
    copies: bool = False


@contextmanager
def record_until(model: nn.Module, name: str, call: int | None = None) -> Iterator[PassUntilLayer]:
    """Record what comes before the layer `name` during the forward pass of one image.

    Everything is copied at once: what is later changed in place is kept as it was.

    Args:
        model: the model.
        name: the layer.
        call: which of its calls is meant, counted from 0; None for the last.

    Yields:
        What `resume_after` needs, complete when the pass is over.
    """
    layer = dict(model.named_modules())[name]
    recorded = PassUntilLayer(layer)
    calls: list[tuple[nn.Module, Any]] = []
    finished_before: list[int] = []  # for each module under way, how many calls came before it
    count = 0

    def before(_module: nn.Module, _args: Any) -> None:
        finished_before.append(len(calls))

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        nonlocal count
        del calls[finished_before.pop() :]
        kept = _map_tensors(output, torch.clone)
        if module is layer:
            if call in (None, count):
                recorded.calls, recorded.output = list(calls), kept
            count += 1
        calls.append((module, kept))

    with hook_every_module(model, before, after):
        yield recorded


@contextmanager
def resume_after(recorded: PassUntilLayer, output: Tensor) -> Iterator[None]:
    """A forward pass in the block computes only what comes after a layer, which gives `output`.

    Modules that ran before the layer give again what they gave in the recorded pass, repeated for
    as many rows as `output` has. A module that is called again after the layer runs as ever.

    Args:
        recorded: the pass until the layer.
        output: (n, ...) what the layer is to give.
    """
    answers: dict[nn.Module, deque[Any]] = {}
    for module, kept in [*recorded.calls, (recorded.layer, output)]:
        repeated = _map_tensors(kept, partial(_repeat, rows=len(output), copy=recorded.copies))
        answers.setdefault(module, deque()).append(repeated)
    with ExitStack() as stack:
        for module, queue in answers.items():
            stack.callback(_restore_forward, module, vars(module).get("forward"))
            vars(module)["forward"] = partial(_answer, queue, module.forward)
        yield


def _answer(queue: deque[Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The next recorded output; a real forward pass when there is none left."""
    return queue.popleft() if queue else call_for_model(forward, *args, **kwargs)


def _restore_forward(module: nn.Module, forward: Any) -> None:
    if forward is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = forward


def _repeat(tensor: Tensor, rows: int, copy: bool) -> Tensor:
    """A tensor of one row as one of many rows; any other tensor as it is."""
    single = tensor.ndim > 0 and len(tensor) == 1
    repeated = tensor.expand(rows, *tensor.shape[1:]) if single else tensor
    return repeated.clone() if copy else repeated


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of tuples, lists and mappings with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_map_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value

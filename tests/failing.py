"""A model that raises what it is told to, and what models raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

KINDS: dict[str, Callable[[], Exception]] = {
    "runtime": lambda: RuntimeError("no such kernel\nand many more lines"),
    "key": lambda: KeyError("scale"),
    "attribute": lambda: AttributeError("no attribute 'head'"),
    "assertion": lambda: AssertionError(),
    "value": lambda: ValueError("Input height (7) doesn't match model (8)."),
    "own": lambda: TheirError("on a Monday\nor a Tuesday"),
    "memory": lambda: torch.OutOfMemoryError("CUDA out of memory"),
}
"""What a model may raise."""
FAULTS = [kind for kind in KINDS if kind != "memory"]
"""All but that the memory does not suffice, which is no fault of the model."""


class TheirError(Exception):
    """An exception class of the model's author."""


class Raises(torch.autograd.Function):
    """Passes values on, and raises in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: BaseException) -> Tensor:
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        raise ctx.error


class Moody(nn.Module):
    """A model around another one that raises what it is told to, forward or backward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.forward_error: BaseException | None = None
        self.backward_error: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if self.forward_error is not None:
            raise self.forward_error
        return out if self.backward_error is None else Raises.apply(out, self.backward_error)

"""What a model returns, as one row of scores an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.errors import ModelError


def has_no_classes(model: nn.Module) -> bool:
    """Whether a model says that it gives features, not scores of classes."""
    classes = getattr(model, "num_classes", None)
    return isinstance(classes, int) and classes == 0


def read_logits(output: Any, name: str, *, features: bool = False) -> Tensor:
    """The (B, N) scores within whatever a model returns.

    A mapping gives its `logits`, a tuple or list its first tensor. Raises `ModelError` if nothing
    of the shape (B, N) is there.

    Args:
        output: what the model returned.
        name: what the model is called in messages.
        features: the outputs are features; those of tokens or of cells are averaged over positions.
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if features and isinstance(output, Tensor):
        output = _averaged(output)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"{name} returns {shape} where (images, classes) is needed; wrap it in a module that "
            "returns one score per class"
        )
    return output


def _averaged(features: Tensor) -> Tensor:
    """Features (B, N) of tokens (B, L, N) or cells, whichever of the outer axes is the channels'.

    >>> [tuple(_averaged(Tensor(*s)).shape) for s in ((1, 9, 64), (1, 64, 3, 4), (1, 3, 4, 64))]
    [(1, 64), (1, 64), (1, 64)]
    """
    if features.ndim == 4:
        last = features.shape[3] > features.shape[1]  # channels outnumber rows at a model's end
        return features.mean((1, 2) if last else (2, 3))
    return features.mean(1) if features.ndim == 3 else features

"""What a model returns, as one row of scores an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.errors import ModelError


def has_no_classes(model: nn.Module) -> bool:
    """Whether a model declares ``num_classes = 0``: its outputs are features, not class scores."""
    classes = getattr(model, "num_classes", None)
    return isinstance(classes, int) and classes == 0


def read_logits(output: Any, name: str, *, features: bool = False) -> Tensor:
    """The scores within whatever a model returns.

    Of a mapping it is the entry `logits`, of a tuple or list the first element.

    Args:
        output: what the model returned.
        name: what the model is called in messages.
        features: whether the outputs are features; those of tokens (B, L, N) or of cells (B, N, h,
            w) or (B, h, w, N) are averaged over positions.

    Returns:
        (B, N) one row of raw scores, or features, per image.

    Raises:
        ModelError: nothing of the shape (B, N) is there.
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
    """The mean (B, N) of features of tokens or cells over positions, in either order of axes.

    >>> [tuple(_averaged(Tensor(*s)).shape) for s in ((1, 9, 64), (1, 64, 3, 4), (1, 3, 4, 64))]
    [(1, 64), (1, 64), (1, 64)]
    """
    if features.ndim == 4:
        last = features.shape[3] > features.shape[1]  # channels outnumber rows at a model's end
        return features.mean((1, 2) if last else (2, 3))
    return features.mean(1) if features.ndim == 3 else features

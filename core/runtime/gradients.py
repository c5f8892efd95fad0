"""What a backward pass to a layer, or to all attention maps, gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerGradients:
    """The output of a layer, and the gradient of the score with respect to it.

    Attributes:
        score: (B,) the explained score.
        act: (B, K, h, w) the layer's output, prefix tokens left out.
        grad: (B, K, h, w) the gradient of the score with respect to it.
    """

    score: Tensor
    act: Tensor
    grad: Tensor

    @property
    def slopes(self) -> Tensor:
        """(B, K) the derivative of the score with respect to a factor on each channel."""
        return (self.grad * self.act).sum((2, 3))


@dataclass(frozen=True, slots=True)
class AttentionGradients:
    """The attention maps of all layers, and the gradients of the score with respect to them.

    Attributes:
        score: (B,) the explained score.
        attn: the maps by layer name, in order of execution; shapes as in `Run.attention`.
        grad: the gradients by layer name, of the same shapes.
    """

    score: Tensor
    attn: dict[str, Tensor]
    grad: dict[str, Tensor]

"""Class activation maps: a layer's channels, weighted by what the target's gradient says of them.

All of them read one activation and one gradient at a layer, so together they cost one forward pass
and a backward pass that stops at the layer.
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor

from core.engine import Run
from core.errors import NotApplicableError
from core.methods.base import Method, register
from core.types import Law, Need

CANCELLED = 1e-3
"""Channels that cancel to less than this share of their sizes leave rounding errors: measured, 1e-4
or less where a normalisation follows, 7e-3 or more elsewhere."""

CAM_LAWS = (Law.CLASS_SENSITIVE, Law.NONNEGATIVE)


class CAM(Method):
    """What the members of the family share."""

    relu: bool = Field(
        True, title="ReLU", description="Keep only evidence for the target; off shows both signs"
    )

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        found = run.layer_gradients()
        if not found.grad.flatten(1).any(1).all():
            raise NotApplicableError(
                f"the score does not depend on the cells of layer {run.layer!r} (a class token may "
                "be all that is read there); choose an earlier layer"
            )
        values = self.combine(found.act, found.grad)
        return values.relu() if self.relu else values, found.score

    @abstractmethod
    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        """A map (B, h, w) from the layer's activation and gradient, each (B, K, h, w)."""


@register(
    "gradcam",
    label="Grad-CAM",
    family="cam",
    about="Best for a quick look at which region counts; not for fine detail or exact amounts.",
    paper="arXiv:1610.02391",
    needs=[Need.GRADIENT, Need.LAYER],
    laws=CAM_LAWS,
)
class GradCAM(CAM):
    """Channels weighted by their mean gradient (Selvaraju et al., 2017)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        return (grad.mean((2, 3), keepdim=True) * act).sum(1)


@register(
    "gradcam_plus_plus",
    label="Grad-CAM++",
    family="cam",
    about="Best for several objects of one class; not for evidence against it.",
    paper="arXiv:1710.11063",
    needs=[Need.GRADIENT, Need.LAYER],
    laws=CAM_LAWS,
)
class GradCAMPlusPlus(CAM):
    """Channels weighted by positive gradients, each place once (Chattopadhyay et al., 2018).

    The weights are the closed form that holds for an exponential of the score, as is customary.
    """

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        squared, total = grad**2, act.sum((2, 3), keepdim=True)
        share = squared / (2 * squared + total * grad**3 + 1e-6)
        share = share.where(grad != 0, 0)
        return ((share * grad.relu()).sum((2, 3), keepdim=True) * act).sum(1)


@register(
    "hirescam",
    label="HiResCAM",
    family="cam",
    about="Best for regions that provably add to the score at the last layer; not for smooth maps.",
    paper="arXiv:2011.08891",
    needs=[Need.GRADIENT, Need.LAYER],
    laws=CAM_LAWS,
)
class HiResCAM(CAM):
    """Activation times gradient, place by place (Draelos & Carin, 2020)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        product = grad * act
        values = product.sum(1)
        left, all_of_it = values.abs().amax((1, 2)), product.abs().sum(1).amax((1, 2))
        if (left <= CANCELLED * all_of_it).any():
            raise NotApplicableError(
                "HiResCAM is zero everywhere at this layer but for rounding: a normalisation right "
                "after it undoes its scale; choose another layer"
            )
        return values


@register(
    "layercam",
    label="LayerCAM",
    family="cam",
    about="Best for object boundaries at earlier layers; not for evidence against the target.",
    paper="10.1109/TIP.2021.3089943",
    needs=[Need.GRADIENT, Need.LAYER],
    laws=CAM_LAWS,
)
class LayerCAM(CAM):
    """Activation times positive gradient, place by place (Jiang et al., 2021)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        return (grad.relu() * act).sum(1)

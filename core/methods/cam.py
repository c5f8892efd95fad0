"""Class activation maps: a layer's channels, weighted by what the target's gradient says of them.

All of them read one activation and one gradient at a layer, so together they cost one forward pass
and a backward pass that stops at the layer.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from core.errors import NotApplicableError
from core.methods.base import Method, register
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.base import Target
from core.tasks.classification import ClassLogit
from core.types import Cost, Need, Prediction, Property

CANCELLED = 1e-3
"""Channels that cancel to less than this share of their sizes leave rounding errors: measured, 1e-4
or less where a normalisation follows, 7e-3 or more elsewhere."""

CAM_PROPERTIES = (Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE)


class CAM(Method):
    """What the members of the family share."""

    relu: bool = Field(
        True, title="ReLU", description="Keep only evidence for the target; off shows both signs"
    )

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        found = run.layer_gradients()
        check_alive(found.grad, run.layer)
        values = self.combine(found.act, found.grad)
        return values.relu() if self.relu else values, found.score

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    @abstractmethod
    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        """A map (B, h, w) from the layer's activation and gradient, each (B, K, h, w)."""


def check_alive(grad: Tensor, layer: str | None) -> None:
    """Refuse a layer on whose cells the score of some image does not depend.

    Raises:
        NotApplicableError: its gradient (B, K, h, w) is zero.
    """
    if not grad.flatten(1).any(1).all():
        raise NotApplicableError(
            f"the score does not depend on the cells of layer {layer!r} (a class token may be all "
            "that is read there); choose an earlier layer"
        )


@register(
    "gradcam",
    label="Grad-CAM",
    family="cam",
    about="Best for a quick look at which region counts; not for fine detail or exact amounts.",
    paper="arXiv:1610.02391",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=CAM_PROPERTIES,
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
    properties=CAM_PROPERTIES,
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
    properties=CAM_PROPERTIES,
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
    properties=CAM_PROPERTIES,
)
class LayerCAM(CAM):
    """Activation times positive gradient, place by place (Jiang et al., 2021)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        return (grad.relu() * act).sum(1)


@register(
    "xgradcam",
    label="XGrad-CAM",
    family="cam",
    about="Best for a Grad-CAM that counts where channels fire; not where they sum to about zero.",
    paper="arXiv:2008.02312",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=CAM_PROPERTIES,
)
class XGradCAM(CAM):
    """Channels weighted by their gradient where they are active (Fu et al., 2020)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        share = act / (act.sum((2, 3), keepdim=True) + 1e-7)
        return ((grad * share).sum((2, 3), keepdim=True) * act).sum(1)


@register(
    "finercam",
    label="Finer-CAM",
    family="cam",
    about="Best for what tells a class from its likes; not for all that speaks for it.",
    paper="arXiv:2501.11309",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=[Property.CLASS_SENSITIVE, Property.NONNEGATIVE],
)
class FinerCAM(GradCAM):
    """Grad-CAM of a class rather than of those most like it (Zhang et al., 2025).

    Likest are the classes whose logits come nearest to the target's; each counts by its
    probability. The score reported is the target's own.
    """

    alpha: float = Field(1.0, ge=0, le=10, description="How strongly similar classes count against")
    comparisons: int = Field(3, ge=1, le=100, description="How many similar classes, at most")

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        if type(run.target) is not ClassLogit:
            raise NotApplicableError(
                f"Finer-CAM sets the logit of one class against those of similar classes; explain "
                f"a class, not {run.target.key}"
            )
        target = _Finer(run.target, self.alpha, self.comparisons)
        values, _ = super().attribute(run.derive(target=target))
        return values, run.score()


@dataclass(frozen=True)
class _Finer(Target):
    """A class's logit, less those of the classes nearest to it, as `FinerCAM` wants it."""

    base: ClassLogit
    alpha: float
    comparisons: int

    @property
    def key(self) -> str:
        return f"finer:{self.alpha:.17g}:{self.comparisons}:{self.base.key}"

    def __call__(self, output: Tensor, owner: Tensor) -> Tensor:
        own = self.base(output, owner)[:, None]
        index = torch.tensor(
            [self.base.of(image) for image in owner.tolist()], device=output.device
        )
        distance = (output - own).detach().abs().scatter(1, index[:, None], -1.0)
        similar = distance.argsort(dim=1, stable=True)[:, 1 : 1 + self.comparisons]
        weight = output.softmax(1).gather(1, similar)
        gaps = weight * (own - self.alpha * output.gather(1, similar))
        return gaps.sum(1) / (weight.sum(1) + 1e-9)

    def probability(self) -> Target:
        return self.base.probability()

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return f"{self.base.describe(prediction, image)} rather than classes like it"

    def check(self, outputs: int, images: int, model: str) -> None:
        self.base.check(outputs, images, model)

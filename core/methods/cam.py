"""Class activation maps (CAM): a layer's channels, weighted by the gradient of the target.

All methods of this file read the activation and the gradient of one layer. Together they cost one
forward pass and one backward pass that stops at the layer. The default layer of a model is found in
`core.models.layers`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from core.errors import NotApplicableError
from core.methods.base import Method, register
from core.methods.outliers import MaskOutliers, outlying_tokens, report_outliers, without
from core.models.default_layer import SMALLEST_GRID
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.activation import SOFTMAX
from core.tasks.base import Target
from core.tasks.classification import ClassScore, scores_of
from core.tasks.outputs import Outputs
from core.types import Cost, Need, Prediction, Property

CANCELLATION_LIMIT = 1e-3
"""If the sum over channels is below this share of the sum of absolute values, it is only rounding
error. Measured: 1e-4 or less before a normalisation, 7e-3 or more elsewhere."""

CAM_PROPERTIES = (Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE)


class CAM(Method):
    """Base class of CAM methods that combine one activation with one gradient."""

    relu: bool = Field(
        True,
        title="ReLU",
        description="Show only evidence for the target (values above 0); off shows both signs",
    )

    mask_outliers: bool = MaskOutliers

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        found = run.layer_gradients()
        note_limits(run, found.act, found.grad)
        values, outliers = self.combine(found.act, found.grad), outlying_tokens(run, found.act)
        report_outliers(run, values, outliers)
        if self.mask_outliers and outliers.any():
            kept = self.combine(without(found.act, outliers), without(found.grad, outliers))
            values = without(kept, outliers)
        return values.relu() if self.relu else values, found.score

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    @abstractmethod
    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        """A map (B, h, w) from the layer's activation and gradient, each (B, K, h, w)."""


def note_limits(run: Run, act: Tensor, grad: Tensor | None = None) -> None:
    """Notes in the extras why a map shows little or nothing.

    ``zero_gradient`` (B,) is 1 for an image whose score does not depend on the layer's cells, as
    where only a class token is read after it: its map is zero. ``grid_cells`` (B,) is the number of
    cells of a grid too coarse to localise anything.

    Args:
        run: the run.
        act: (B, K, h, w) the layer's activation.
        grad: (B, K, h, w) the gradient there; None if the method uses none.
    """
    if grad is not None and not grad.flatten(1).any(1).all():
        run.extras["zero_gradient"] = (~grad.flatten(1).any(1)).float()
    height, width = act.shape[2:]
    if min(height, width) < SMALLEST_GRID:
        run.extras["grid_cells"] = torch.full((len(act),), float(height * width))


@register(
    "gradcam",
    label="Grad-CAM",
    family="cam",
    about="Best for a quick look at the relevant region; not for fine detail or exact amounts.",
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
    about="Best for several objects of one class; not for evidence against the class.",
    paper="arXiv:1710.11063",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=CAM_PROPERTIES,
)
class GradCAMPlusPlus(CAM):
    """Channels weighted by weighted positive gradients (Chattopadhyay et al., 2018).

    The weights use the paper's closed form, which assumes an exponential of the score.
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
    about="Best for regions that provably raise the score at the last layer; not for smooth maps.",
    paper="arXiv:2011.08891",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=CAM_PROPERTIES,
)
class HiResCAM(CAM):
    """Activation times gradient at each position, summed over channels (Draelos & Carin, 2020)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        product = grad * act
        values = product.sum(1)
        largest, uncancelled = values.abs().amax((1, 2)), product.abs().sum(1).amax((1, 2))
        if ((largest <= CANCELLATION_LIMIT * uncancelled) & (uncancelled > 0)).any():
            raise NotApplicableError(
                "HiResCAM is zero everywhere at this layer, apart from rounding errors, because a "
                "normalisation follows the layer; choose another layer"
            )
        return values


@register(
    "layercam",
    label="LayerCAM",
    family="cam",
    about="Best for object boundaries at early layers; not for evidence against the target.",
    paper="10.1109/TIP.2021.3089943",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=CAM_PROPERTIES,
)
class LayerCAM(CAM):
    """Activation times positive gradient at each position (Jiang et al., 2021)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        return (grad.relu() * act).sum(1)


@register(
    "xgradcam",
    label="XGrad-CAM",
    family="cam",
    about="Best for weighting by where channels are active; not for channels that sum to about 0.",
    paper="arXiv:2008.02312",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=CAM_PROPERTIES,
)
class XGradCAM(CAM):
    """Channels weighted by the activation-weighted mean of their gradient (Fu et al., 2020)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        share = act / (act.sum((2, 3), keepdim=True) + 1e-7)
        return ((grad * share).sum((2, 3), keepdim=True) * act).sum(1)


@register(
    "finercam",
    label="Finer-CAM",
    family="cam",
    about="Best for what separates similar classes; not for all evidence of the class.",
    paper="arXiv:2501.11309",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=[Property.CLASS_SENSITIVE, Property.NONNEGATIVE],
)
class FinerCAM(GradCAM):
    """Grad-CAM of the difference between a class and similar classes (Zhang et al., 2025).

    Similar classes are those whose logits are closest to the target's. Each difference is weighted
    by the probability of the similar class. The reported score is the logit of the target.
    """

    alpha: float = Field(
        1.0,
        ge=0,
        le=10,
        title="Weight of similar classes",
        description="Factor on the logits of similar classes before they are subtracted; 0 ignores "
        "them",
    )
    comparisons: int = Field(
        3,
        ge=1,
        le=100,
        title="Number of similar classes",
        description="Maximum number of similar classes to compare with",
    )

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        if type(run.target) is not ClassScore:
            raise NotApplicableError(
                f"Finer-CAM compares the logit of one class with those of similar classes; choose "
                f"one class as target instead of {run.target.key}"
            )
        target, *others = (
            _FinerTarget(one, self.alpha, self.comparisons)
            for one in (run.target, *run.extra_targets)
            if type(one) is ClassScore
        )
        compared = run.derive(target=target, extra_targets=others)
        values, _ = super().attribute(compared)
        run.extras |= compared.extras
        return values, run.score()


@dataclass(frozen=True)
class _FinerTarget(Target):
    """The logit of a class minus those of similar classes; see `FinerCAM`."""

    base: ClassScore
    alpha: float
    comparisons: int

    @property
    def key(self) -> str:
        return f"finer:{self.alpha:.17g}:{self.comparisons}:{self.base.key}"

    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        output, own = scores_of(outputs), self.base(outputs, owner)[:, None]
        activation = self.base.activation or SOFTMAX
        if output.shape[1] < 2 or not activation.bounded:
            raise NotApplicableError(
                "Finer-CAM compares similar classes, and this model has no others to compare with; "
                "use gradcam"
            )
        index = torch.tensor(
            [self.base.of(image) for image in owner.tolist()], device=output.device
        )
        distance = (output - own).detach().abs().scatter(1, index[:, None], -1.0)
        similar = distance.argsort(dim=1, stable=True)[:, 1 : 1 + self.comparisons]
        weight = activation(output).gather(1, similar)
        gaps = weight * (own - self.alpha * output.gather(1, similar))
        return gaps.sum(1) / (weight.sum(1) + 1e-9)

    def bounded(self) -> Target | None:
        return self.base.bounded()

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return f"{self.base.describe(prediction, image)} rather than similar classes"

    def check(self, outputs: int, images: int, model: str) -> None:
        self.base.check(outputs, images, model)

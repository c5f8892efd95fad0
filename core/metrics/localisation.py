"""Whether a map marks the place where the evidence is known to be."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from core.errors import TimmscopeError
from core.metrics.base import Category, Metric, MetricContext, MetricInput, check, register
from core.runtime.run import Run
from core.types import Score


class Localisation(Metric):
    """Base of the metrics that compare a map with a mask of the evidence."""

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        assert context.ground_truth is not None
        ground_truth = context.ground_truth.bool()
        if ground_truth.shape != values.shape:
            raise TimmscopeError(
                f"a ground truth of shape {tuple(ground_truth.shape)} does not fit maps of shape "
                f"{tuple(values.shape)}; give one mask per picture"
            )
        if not ground_truth.flatten(1).any(1).all():
            raise TimmscopeError(
                "the ground truth marks no pixel that the model sees; give another mask"
            )
        return self.compare(run, values, ground_truth)

    @abstractmethod
    def compare(self, run: Run, values: Tensor, ground_truth: Tensor) -> Score:
        """Score maps (B, H, W) against boolean masks (B, H, W), none of them empty."""


@register(
    "pointing_game",
    label="Pointing game",
    about="Does the largest value lie on the evidence?",
    category=Category.LOCALISATION,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:1608.00507",
    needs=[MetricInput.GROUND_TRUTH],
)
class PointingGame(Localisation):
    """1 if the largest value lies on the evidence, 0 if not (Zhang et al., 2016).

    If several values are the largest, the share of them that do.
    """

    def compare(self, run: Run, values: Tensor, ground_truth: Tensor) -> Score:
        return self.score(run, pointing(values, ground_truth))


@register(
    "energy_inside",
    label="Energy inside",
    about="How much of the positive evidence in the map lies on the true evidence?",
    category=Category.LOCALISATION,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:1910.01279",
    needs=[MetricInput.GROUND_TRUTH],
)
class EnergyInside(Localisation):
    """Share of the sum of positive values on the evidence (Wang et al., 2020); 0 if none is."""

    def compare(self, run: Run, values: Tensor, ground_truth: Tensor) -> Score:
        return self.score(run, mass(values.clamp_min(0), ground_truth))


@register(
    "mass_accuracy",
    label="Mass accuracy",
    about="How much of the map, positive or negative, lies on the evidence?",
    category=Category.LOCALISATION,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:2003.07258",
    needs=[MetricInput.GROUND_TRUTH],
)
class MassAccuracy(Localisation):
    """Share of the sum of absolute values on the evidence (Arras et al., 2022); 0 for zeros."""

    def compare(self, run: Run, values: Tensor, ground_truth: Tensor) -> Score:
        return self.score(run, mass(values.abs(), ground_truth))


@register(
    "rank_accuracy",
    label="Rank accuracy",
    about="If the evidence has K pixels, how many of the top K pixels lie on it?",
    category=Category.LOCALISATION,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:2003.07258",
    needs=[MetricInput.GROUND_TRUTH],
)
class RankAccuracy(Localisation):
    """Share of the K largest values that lie on the evidence of K pixels (Arras et al., 2022).

    Pixels that tie for the last places count in proportion to their share on the evidence.
    """

    def compare(self, run: Run, values: Tensor, ground_truth: Tensor) -> Score:
        found = [top_share(v, t, int(t.sum())) for v, t in zip(values, ground_truth, strict=True)]
        return self.score(run, torch.tensor(found))


@register(
    "iou",
    label="IoU",
    about="Does the map match the shape of the evidence, at its best threshold?",
    category=Category.LOCALISATION,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:2007.04178",
    needs=[MetricInput.GROUND_TRUTH],
    axes=("threshold, as a share of the largest value", "IoU"),
)
class IoU(Localisation):
    """The largest intersection over union of any threshold (Choe et al., 2020).

    Thresholds run from 0 to the map's largest value, and the curve shows the result of each. A map
    without a positive value scores 0.
    """

    thresholds: int = Field(20, ge=1, le=200, description="Number of thresholds")

    def compare(self, run: Run, values: Tensor, ground_truth: Tensor) -> Score:
        at = torch.linspace(0, 1, self.thresholds + 1)
        curve = overlaps(values, ground_truth, at)
        return self.score(run, curve.amax(1), curve_x=at, curve_y=curve)


def pointing(values: Tensor, ground_truth: Tensor) -> Tensor:
    """(B,) the share of each map's largest values (B, H, W) that lie in the mask (B, H, W).

    >>> pointing(torch.tensor([[[1.0, 3.0, 3.0]]]), torch.tensor([[[False, True, False]]]))
    tensor([0.5000])
    """
    largest = values == values.amax((1, 2), keepdim=True)
    return (largest & ground_truth).sum((1, 2)) / largest.sum((1, 2))


def mass(values: Tensor, ground_truth: Tensor) -> Tensor:
    """(B,) the share of non-negative values (B, H, W) in the mask (B, H, W); 0 if all are zero.

    >>> mass(torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]]), torch.tensor([[[False, True]]] * 2))
    tensor([0.7500, 0.0000])
    """
    total = values.double().sum((1, 2))
    inside = (values.double() * ground_truth).sum((1, 2))
    return torch.where(total > 0, inside / total, 0).float()


def top_share(values: Tensor, ground_truth: Tensor, count: int) -> float:
    """Share of the `count` largest values (H, W) that lie in the mask (H, W), ties in proportion.

    >>> mask = torch.tensor([[True, True, False, False]])
    >>> top_share(torch.tensor([[4.0, 1.0, 1.0, 0.0]]), mask, 2)
    0.75
    """
    last = values.flatten().sort(descending=True).values[count - 1]
    above, level = values > last, values == last
    room = (count - above.sum()) / level.sum()
    return float(((above & ground_truth).sum() + room * (level & ground_truth).sum()) / count)


def overlaps(values: Tensor, ground_truth: Tensor, at: Tensor) -> Tensor:
    """(B, n) intersection over union of the mask with the map cut at n thresholds.

    Args:
        values: (B, H, W) maps.
        ground_truth: (B, H, W) masks.
        at: (n,) thresholds, as shares of each map's largest value.
    """
    top = values.amax((1, 2)).clamp_min(0)[:, None, None, None]
    over = (values[:, None] >= at[None, :, None, None] * top) & (values[:, None] > 0)
    mask = ground_truth[:, None]
    return (over & mask).sum((2, 3)) / (over | mask).sum((2, 3))

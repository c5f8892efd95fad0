"""LIME: a linear model of the score, fitted around the picture."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from core.methods.base import register
from core.methods.segmented import Segmented
from core.perturb.masks import (
    MaskBaseline,
    Masker,
    make_masker,
    replacement_masker,
    segment_masked_copies,
)
from core.perturb.superpixels import Segmentation
from core.runtime.engine import Run, Subject
from core.types import Cost, Property

Floats = NDArray[np.float64]


@register(
    "lime",
    label="LIME",
    family="perturbation",
    about="Best for a linear account of whole regions; not for detail within one of them.",
    paper="arXiv:1602.04938",
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class Lime(Segmented):
    """How much each part adds to the score, by a local linear fit (Ribeiro et al., 2016).

    Copies with random parts hidden are weighted by their likeness to the picture. A pixel's value
    is its part's coefficient. How well the linear model fits comes along as `r2`, the parts as
    `segments`. Ridge is the reference's; Lasso's penalty is a share of the smallest one that leaves
    no part at all, so that small scores do not make the map empty.
    """

    segmentation: Segmentation = Field(
        "quickshift", description="How the picture is cut into parts"
    )
    samples: int = Field(1000, ge=10, le=20000, description="Copies, the picture itself included")
    baseline: Literal["segment", MaskBaseline] = Field(
        "segment", description="What hides a part; segment is its own mean colour"
    )
    kernel_width: float = Field(
        0.25, ge=0.05, le=10, description="How unlike the picture a copy may be and still count"
    )
    regression: Literal["ridge", "lasso"] = Field(
        "ridge", description="The linear fit: ridge keeps all parts, lasso drops what matters least"
    )
    alpha: float = Field(1.0, ge=0, le=1000, description="Ridge's penalty")
    sparsity: float = Field(
        0.1, ge=0.001, le=0.99, description="Lasso's penalty, as a share of the largest useful one"
    )
    top: int = Field(0, ge=0, le=1000, description="Parts kept, those that weigh most; 0 for all")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.samples)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        labels = [self.labels(run, image) for image in range(len(run.x))]
        fits = [self._fitted(run, image, parts) for image, parts in enumerate(labels)]
        run.extras["r2"] = torch.tensor([r2 for _, r2 in fits])
        run.extras["segments"] = torch.stack(labels)
        maps = [fit[parts] for (fit, _), parts in zip(fits, labels, strict=True)]
        return torch.stack(maps), run.score()

    def _fitted(self, run: Run, image: int, labels: Tensor) -> tuple[Tensor, float]:
        """The coefficient of each part of one image, and R squared."""
        count = int(labels.max()) + 1
        shown = torch.randint(0, 2, (self.samples, count), generator=run.generator()).bool()
        shown[0] = True
        copies = segment_masked_copies(
            run, image, self._veil(run, image, labels), shown[1:], labels
        )
        # What only concerns the fit does not name the copies: it can be changed at no cost.
        asked = self.model_dump_json(include={*Segmented.model_fields, "samples", "baseline"})
        kept = run.scores(copies, self.samples - 1, keep=("lime", asked, image, run.seed))
        scores = torch.cat([run.score()[image : image + 1], kept]).cpu().double()
        fit, r2 = self._fit(shown.double().numpy(), scores.numpy())
        return torch.from_numpy(fit), r2

    def _veil(self, run: Run, image: int, labels: Tensor) -> Masker:
        if self.baseline != "segment":
            return make_masker(run, image, self.baseline)
        return replacement_masker(run.x[image], segment_means(run.x[image], labels))

    def _fit(self, shown: Floats, scores: Floats) -> tuple[Floats, float]:
        """Coefficients (d,), zero for parts not kept, and the weighted R squared."""
        # Imported where needed: it takes long, and few ask for it.
        from sklearn.linear_model import Ridge  # type: ignore[import-untyped]

        weights = similarity(shown, self.kernel_width)
        kept = np.arange(shown.shape[1])
        if 0 < self.top < len(kept):
            first = Ridge(alpha=0.01).fit(shown, scores, weights).coef_
            kept = np.argsort(-np.abs(first), kind="stable")[: self.top]
        model = self._regression(shown[:, kept], scores, weights)
        model.fit(shown[:, kept], scores, weights)
        fit = np.zeros(shown.shape[1])
        fit[kept] = model.coef_
        return fit, float(model.score(shown[:, kept], scores, weights))

    def _regression(self, shown: Floats, scores: Floats, weights: Floats) -> Any:
        from sklearn.linear_model import Lasso, Ridge

        if self.regression == "ridge":
            return Ridge(alpha=self.alpha)
        share = weights / weights.sum()
        largest = np.abs((share * (scores - share @ scores)) @ (shown - share @ shown)).max()
        return Lasso(alpha=max(self.sparsity * largest, 1e-30), max_iter=100_000)


def similarity(shown: Floats, width: float) -> Floats:
    """The weight (n,) of copies that show some parts (n, d): near 1 for all of them, less for few.

    An exponential kernel over the cosine distance from the picture itself.
    """
    distance = 1 - np.sqrt(shown.mean(1))
    weights: Floats = np.sqrt(np.exp(-np.square(distance / width)))
    return weights


def segment_means(x: Tensor, labels: Tensor) -> Tensor:
    """An image (C, H, W) in which every pixel has the mean colour of its part (H, W)."""
    flat = labels.flatten().to(x.device)
    sums = x.new_zeros(len(x), int(flat.max()) + 1).index_add_(1, flat, x.flatten(1))
    means: Tensor = (sums / flat.bincount().to(x))[:, flat].view_as(x)
    return means

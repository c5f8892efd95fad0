"""LIME: a local linear model of the score."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

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
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Property

Floats = NDArray[np.float64]


class Fit(NamedTuple):
    """A local linear model.

    Attributes:
        coefficients: (d,) of the segments, 0 for those that are not kept.
        errors: (d,) their standard errors.
        r2: the weighted R^2.
    """

    coefficients: Floats
    errors: Floats
    r2: float


@register(
    "lime",
    label="LIME",
    family="perturbation",
    about="Best for the effect of whole regions; not for detail inside a region.",
    paper="arXiv:1602.04938",
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class Lime(Segmented):
    """Contribution of each segment to the score, by a local linear fit (Ribeiro et al., 2016).

    A linear model predicts the score of copies in which random segments are hidden. Copies are
    weighted by their similarity to the picture. A pixel's value is the coefficient of its segment.
    `extras["r2"]` is the weighted R^2 of the fit (1 is perfect), `extras["standard_error"]` a map
    of the coefficients' standard errors, `extras["segments"]` the labels.
    The reference implementation uses ridge regression. The lasso penalty is a share of the smallest
    penalty that removes all segments, so that it does not depend on the scale of the score.
    """

    segmentation: Segmentation = Field(
        "quickshift", description="Algorithm that cuts the picture into segments"
    )
    samples: int = Field(
        1000, ge=10, le=20000, description="Number of copies, including the picture itself"
    )
    baseline: Literal["segment", MaskBaseline] = Field(
        "segment",
        description="What replaces hidden segments; segment is the mean colour of the segment",
    )
    kernel_width: float = Field(
        0.25,
        ge=0.05,
        le=10,
        description="Width of the weighting kernel, in units of cosine distance; a larger width "
        "gives more weight to copies that differ much from the picture",
    )
    regression: Literal["ridge", "lasso"] = Field(
        "ridge",
        description="Kind of linear fit: ridge keeps all segments, lasso sets weak ones to 0",
    )
    alpha: float = Field(
        1.0, ge=0, le=1000, title="Ridge penalty", description="Penalty of ridge regression"
    )
    sparsity: float = Field(
        0.1,
        ge=0.001,
        le=0.99,
        title="Lasso penalty",
        description="Penalty of lasso, as a share of the smallest one that removes all segments",
    )
    top: int = Field(
        0,
        ge=0,
        le=1000,
        title="Segments kept",
        description="Number of strongest segments to keep; 0 keeps all",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.samples)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        maps, extras = zip(*(self._explain(run, i) for i in range(len(run.x))), strict=True)
        run.extras |= {name: torch.cat([one[name] for one in extras]) for name in extras[0]}
        return torch.cat(maps), run.score()

    def _explain(self, run: Run, image: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The map (1, H, W) of one image, with what is known of the fit."""
        labels = self.labels(run, image)
        count = int(labels.max()) + 1
        shown = torch.randint(0, 2, (self.samples, count), generator=run.generator()).bool()
        shown[0] = True
        fewest = max(10, count // 2)
        shown = shown[: run.samples(self.samples, "copies", fewest)]
        copies = segment_masked_copies(
            run, image, self._masker(run, image, labels), shown[1:], labels
        )
        # Parameters of the fit are not part of the key, so changing them reuses the scores.
        settings = self.model_dump_json(include={*Segmented.model_fields, "samples", "baseline"})
        key = "lime", settings, len(shown), image, run.seed
        seen = run.score()[image : image + 1]

        def watch(scores: Tensor) -> None:
            nonlocal seen
            seen = torch.cat([seen, scores])
            if len(seen) >= fewest:
                run.paint(len(seen), lambda: self._map(shown[: len(seen)], seen, labels))

        whole = seen
        copy_scores = run.scores(copies, len(shown) - 1, keep=key, watch=watch)
        return self._map(shown, torch.cat([whole, copy_scores]), labels)

    def _map(
        self, shown: Tensor, scores: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The map (1, H, W) fitted to copies, with the extras of `Lime`.

        Args:
            shown: (n, d) True where a copy shows a segment.
            scores: (n,) of the copies.
            labels: (H, W) the segments.
        """
        found = self._fit(shown.double().numpy(), scores.cpu().double().numpy())
        return torch.from_numpy(found.coefficients)[labels][None], {
            "r2": torch.tensor([found.r2]),
            "segments": labels[None],
            "standard_error": torch.from_numpy(found.errors)[labels][None],
        }

    def _masker(self, run: Run, image: int, labels: Tensor) -> Masker:
        if self.baseline != "segment":
            return make_masker(run, image, self.baseline)
        return replacement_masker(run.x[image], segment_means(run.x[image], labels))

    def _fit(self, shown: Floats, scores: Floats) -> Fit:
        """The linear model of the scores (n,) of copies that show segments (n, d)."""
        # Imported here because the import is slow and few callers need it.
        from sklearn.linear_model import Ridge  # type: ignore[import-untyped]

        weights = similarity(shown, self.kernel_width)
        kept = np.arange(shown.shape[1])
        if 0 < self.top < len(kept):
            first = Ridge(alpha=0.01).fit(shown, scores, weights).coef_
            kept = np.argsort(-np.abs(first), kind="stable")[: self.top]
        model = self._regression(shown[:, kept], scores, weights)
        model.fit(shown[:, kept], scores, weights)
        fit, errors = np.zeros(shown.shape[1]), np.zeros(shown.shape[1])
        fit[kept] = model.coef_
        used = kept[model.coef_ != 0]
        penalty = self.alpha if self.regression == "ridge" else 0.0
        residuals = scores - model.predict(shown[:, kept])
        errors[used] = standard_errors(shown[:, used], residuals, weights, penalty)
        return Fit(fit, errors, float(model.score(shown[:, kept], scores, weights)))

    def _regression(self, shown: Floats, scores: Floats, weights: Floats) -> Any:
        from sklearn.linear_model import Lasso, Ridge

        if self.regression == "ridge":
            return Ridge(alpha=self.alpha)
        share = weights / weights.sum()
        largest = np.abs((share * (scores - share @ scores)) @ (shown - share @ shown)).max()
        return Lasso(alpha=max(self.sparsity * largest, 1e-30), max_iter=100_000)


def standard_errors(
    shown: Floats, residuals: Floats, weights: Floats, penalty: float = 0.0
) -> Floats:
    """Standard errors of the coefficients of a weighted linear fit with an intercept.

    They hold whatever the spread of the residuals is (White, 1980), and take the segments that the
    fit uses as given. They shrink with the square root of the number of copies.

    Args:
        shown: (n, d) 1 where a copy shows a segment, else 0.
        residuals: (n,) what the fit misses.
        weights: (n,) of the copies.
        penalty: that of ridge regression.

    Returns:
        (d,) in the unit of the coefficients.
    """
    count, width = shown.shape
    rows = shown - weights @ shown / weights.sum()  # the intercept goes with the means
    inverse = np.linalg.pinv(rows.T @ (weights[:, None] * rows) + penalty * np.eye(width))
    pulls = (weights * residuals)[:, None] * rows
    freedom = max(1, count - width - 1) / count  # residuals of a fit are too small
    variance: Floats = np.diagonal(inverse @ (pulls.T @ pulls) @ inverse) / freedom
    return np.sqrt(np.maximum(variance, 0))


def similarity(shown: Floats, width: float) -> Floats:
    """Weights of copies by an exponential kernel of their cosine distance to the picture.

    Args:
        shown: (n, d) 1 where a copy shows a segment, else 0.
        width: width of the kernel.

    Returns:
        (n,) weights from 0 to 1; 1 if all segments are shown.
    """
    distance = 1 - np.sqrt(shown.mean(1))
    weights: Floats = np.sqrt(np.exp(-np.square(distance / width)))
    return weights


def segment_means(x: Tensor, labels: Tensor) -> Tensor:
    """An image (C, H, W) in which every pixel has the mean colour of its segment (H, W)."""
    flat = labels.flatten().to(x.device)
    sums = x.new_zeros(len(x), int(flat.max()) + 1).index_add_(1, flat, x.flatten(1))
    means: Tensor = (sums / flat.bincount().to(x))[:, flat].view_as(x)
    return means

"""Whether the values of a set of pixels add up to what the score loses without the set."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from core.metrics.base import Category, Metric, MetricContext, check, register
from core.perturb.imputation import RemovalBaseline, remover
from core.perturb.masks import MASKS_PER_CHUNK
from core.runtime.batching import Chunk
from core.runtime.noise import (
    CONSTANT,
    NOT_FINITE,
    first_reasons,
    is_constant,
    reasons,
    score_noise,
)
from core.runtime.run import Run
from core.types import Score

SCATTERED = "Not a reliable test: even the true map scores like noise."
"""The caveat of metrics that remove scattered pixels; docs/metrics.md has the measurements."""
UNCHANGED_BY_SETS = (
    "the score does not change, beyond rounding errors, whichever set of pixels is removed"
)


class PixelSubsets(Metric):
    """Base of the metrics that remove random sets of pixels.

    They compare the sum of the map's signed values over each set with the drop of the score without
    it; the score is the target's own, such as a logit. The sets do not depend on the map, so
    another map of the same picture takes no pass. Where no set changes the score, but for rounding
    errors, `cannot_tell` says so.

    Attributes:
        needs_spread: whether it compares how sets differ, so that all changing the score by the
            same amount, or a constant map, says nothing either.
    """

    needs_spread: ClassVar[bool] = True

    samples: int = Field(100, ge=4, le=5000, description="Number of random sets of pixels")
    baseline: RemovalBaseline = Field("mean", description="What replaces removed pixels")

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        removed = self.removed_pixels(run)  # (n, H, W)
        flat = removed.flatten(1).double()
        given = values.flatten(1).double() @ flat.T  # (B, n)
        lost = (run.score()[:, None] - self._left(run, removed)).double().cpu()
        noise = score_noise(run, run.target, run.outputs(), run.owner)
        found = self.compare(run, given, lost)
        spread = lost.amax(1) - lost.amin(1) if self.needs_spread else lost.abs().amax(1)
        return replace(
            found,
            cannot_tell=first_reasons(
                reasons(~lost.isfinite().all(1), NOT_FINITE),
                reasons(spread <= 2 * noise, UNCHANGED_BY_SETS),
                reasons(self.needs_spread & is_constant(values), CONSTANT),
            ),
        )

    def _left(self, run: Run, removed: Tensor) -> Tensor:
        """(B, n) the score of each image without each set of pixels."""

        def rows() -> Iterator[Chunk]:
            for image in range(len(run.x)):
                hide = remover(run, image, self.baseline)
                for some in (~removed).to(run.x.device).split(MASKS_PER_CHUNK):
                    yield hide(some), run.owner[image].expand(len(some))

        asked = type(self).__name__, self.asked(), run.seed
        return run.scores(rows(), len(run.x) * len(removed), keep=asked).view(len(run.x), -1)

    def asked(self) -> Hashable:
        """The parameters that the sets and the scores without them depend on."""
        return self.model_dump_json()

    @abstractmethod
    def removed_pixels(self, run: Run) -> Tensor:
        """(n, H, W) the sets, the same for each image; True where a pixel is removed."""

    @abstractmethod
    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        """Score maps.

        Args:
            run: the question.
            given: (B, n) the sum of the map's values over each set.
            lost: (B, n) the drop of the score without each set.
        """


@register(
    "faithfulness_correlation",
    label="Faithfulness correlation",
    about="Do random pixels with larger values lower the score more when removed?",
    category=Category.FAITHFULNESS,
    higher_is_better=True,
    range=(-1.0, 1.0),
    caveat=SCATTERED,
    paper="arXiv:2005.00631",
)
class FaithfulnessCorrelation(PixelSubsets):
    """Correlation of the map's sum with the score's drop over random sets (Bhatt et al., 2020).

    All sets have the same size. The score comes with its 95% interval; it is 0 for a constant map.
    """

    size: float = Field(0.05, ge=0.001, le=0.99, description="Size of a set, as a share of pixels")

    def removed_pixels(self, run: Run) -> Tensor:
        return drawn(run, [self.size] * self.samples)

    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        return self.score(run, **correlation(given, lost)._asdict())


@register(
    "sensitivity_n",
    label="Sensitivity-n",
    about="Do random pixels with larger values lower the score more, in sets of any size?",
    category=Category.FAITHFULNESS,
    also_answers=["sensitivity"],
    higher_is_better=True,
    range=(-1.0, 1.0),
    caveat=SCATTERED,
    paper="arXiv:1711.06104",
    axes=("share of pixels in a set", "correlation"),
)
class SensitivityN(PixelSubsets):
    """The same correlation for sets of several sizes, averaged (Ancona et al., 2018).

    Sizes are evenly spaced on a logarithmic scale, with the same number of random sets for each.
    """

    sizes: int = Field(5, ge=1, le=20, description="Number of sizes, from 1% to 80% of the pixels")
    samples: int = Field(150, ge=4, le=5000, description="Number of random sets, over all sizes")

    def shares(self) -> list[float]:
        """The sizes of the sets, as shares of the pixels."""
        low, high = math.log(0.01), math.log(0.8)
        steps = max(1, self.sizes - 1)
        return [math.exp(low + (high - low) * i / steps) for i in range(self.sizes)]

    def removed_pixels(self, run: Run) -> Tensor:
        each = max(3, self.samples // self.sizes)
        return drawn(run, [share for share in self.shares() for _ in range(each)])

    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        each = given.shape[1] // self.sizes
        pairs = zip(given.split(each, 1), lost.split(each, 1), strict=True)
        found = [correlation(g, o) for g, o in pairs]
        curve, low, high = (torch.stack(part, 1) for part in zip(*found, strict=True))
        spread = (high - low).square().sum(1).sqrt() / (2 * self.sizes)
        value = curve.mean(1)
        return self.score(
            run,
            value,
            curve_x=torch.tensor(self.shares()),
            curve_y=curve,
            low=(value - spread).clamp_min(-1),
            high=(value + spread).clamp_max(1),
        )


@register(
    "infidelity",
    label="Infidelity",
    about="How badly does the map predict the score's drop when squares are removed?",
    category=Category.FAITHFULNESS,
    higher_is_better=False,
    range=(0.0, 1.0),
    paper="arXiv:1901.09392",
)
class Infidelity(PixelSubsets):
    """Mean squared error of the map's predictions over random squares (Yeh et al., 2019).

    The prediction is the map's sum over a square times the factor that fits best, so the map's
    scale does not matter. The error is divided by the mean squared drop of the score: 0 is a
    perfect prediction, 1 is no better than predicting no drop at all.
    """

    needs_spread: ClassVar[bool] = False

    side: float = Field(
        0.2, ge=0.01, le=0.9, description="Side of a square, as a share of the picture's"
    )

    def removed_pixels(self, run: Run) -> Tensor:
        height, width = run.x.shape[2:]
        side = max(1, round(self.side * min(height, width)))
        generator = run.generator()
        tops = torch.randint(height - side + 1, (self.samples,), generator=generator)
        lefts = torch.randint(width - side + 1, (self.samples,), generator=generator)
        down, right = torch.arange(height)[None], torch.arange(width)[None]
        rows = (down >= tops[:, None]) & (down < tops[:, None] + side)
        columns = (right >= lefts[:, None]) & (right < lefts[:, None] + side)
        return rows[:, :, None] & columns[:, None, :]

    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        return self.score(run, unexplained(given, lost))


def drawn(run: Run, shares: list[float]) -> Tensor:
    """(n, H, W) a random set of pixels for each of n `shares` of the picture, 0 to 1."""
    height, width = run.x.shape[2:]
    generator, sets = run.generator(), []
    for share in shares:
        chosen = torch.zeros(height * width, dtype=torch.bool)
        count = max(1, round(share * height * width))
        chosen[torch.randperm(height * width, generator=generator)[:count]] = True
        sets.append(chosen.view(height, width))
    return torch.stack(sets)


class Correlation(NamedTuple):
    """Pearson correlations with their 95% confidence intervals; each field (B,), from -1 to 1."""

    value: Tensor
    low: Tensor
    high: Tensor


def correlation(some: Tensor, others: Tensor) -> Correlation:
    """The correlation of each row (B, n) with the other's row, with Fisher's interval.

    Where a row does not vary there is no correlation: the value is 0, its interval -1 to 1.

    >>> found = correlation(torch.tensor([[1.0, 2, 4], [1, 1, 1]]), torch.tensor([[1.0, 2, 4]] * 2))
    >>> found.value, found.low
    (tensor([1., 0.]), tensor([-1., -1.]))
    """
    # Imported here: it takes seconds, and few metrics use it.
    from scipy.stats import pearsonr  # type: ignore[import-untyped]

    a, b = some.double(), others.double()
    varies = _varies(a) & _varies(b)
    value = torch.zeros(len(a), dtype=torch.double)
    low, high = -torch.ones_like(value), torch.ones_like(value)
    if varies.any():
        found = pearsonr(a[varies].numpy(), b[varies].numpy(), axis=1)
        interval = found.confidence_interval(0.95)
        value[varies] = torch.from_numpy(found.statistic)
        low[varies], high[varies] = map(torch.from_numpy, (interval.low, interval.high))
    return Correlation(value.float(), low.float(), high.float())


def _varies(rows: Tensor) -> Tensor:
    """(B,) whether the values of each row (B, n) differ by more than rounding errors."""
    spread: Tensor = (rows - rows.mean(1, keepdim=True)).norm(dim=1)
    varies: Tensor = spread > 1e-12 * rows.norm(dim=1)
    return varies


def unexplained(given: Tensor, lost: Tensor) -> Tensor:
    """(B,) the share of the sum of squares of `lost` (B, n) that no multiple of `given` explains.

    >>> unexplained(torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[3.0, 6], [1, 1]]))
    tensor([0., 1.])
    """
    size, total = given.square().sum(1), lost.square().sum(1)
    factor = torch.where(size > 0, (given * lost).sum(1) / size, 0)
    error = (lost - factor[:, None] * given).square().sum(1)
    return torch.where(total > 0, error / total, 0).float()

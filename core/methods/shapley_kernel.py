"""KernelSHAP: Shapley values of segments by weighted least squares."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from core.errors import TimmscopeError
from core.methods.base import register, relative_error
from core.methods.segmented import Segmented
from core.perturb.masks import MaskBaseline, make_masker, segment_masked_copies
from core.perturb.superpixels import grid_shape
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Property

PAIRS_PER_ROUND = 64
"""Pairs of copies evaluated between two checks of the standard error."""


@register(
    "kernel_shap",
    label="KernelSHAP",
    family="shapley",
    about="Best for Shapley values of regions, with standard errors; not for fine detail.",
    paper="arXiv:2012.01536",
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.EFFICIENT],
)
class KernelShap(Segmented):
    """Shapley values of the picture's segments, by paired sampling (Covert & Lee, 2021).

    Each set of segments is evaluated together with its complement, which reduces the variance. No
    set is evaluated twice. Small and large sets have the largest weight and come first. With
    2^segments evaluations the values are exact. A segment's value is spread evenly over its pixels.
    The map sums to the score minus the score of the fully hidden picture;
    `extras["efficiency_error"]` is the relative difference, `extras["standard_error"]` a map of
    standard errors, `extras["segments"]` the labels.
    """

    evaluations: int = Field(
        2048,
        ge=4,
        le=50000,
        description="Maximum number of masked copies, including the full and the fully hidden "
        "picture",
    )
    baseline: MaskBaseline = Field("blur", description="What replaces hidden segments")
    tolerance: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Stops when the mean standard error is below this share of the largest value; "
        "0 uses all evaluations",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        if self.segmentation != "grid":
            return Cost(self.evaluations)
        rows, columns = grid_shape(*subject.input_size[1:], self.segments)
        return Cost(min(self.evaluations, 2 ** min(rows * columns, 64)))

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        labels = [self.labels(run, image) for image in range(len(run.x))]
        solved = [self._explain(run, image, own) for image, own in enumerate(labels)]
        values, extras = self._maps(run, labels, solved)
        run.extras |= extras
        return values, run.score()

    def _maps(
        self, run: Run, labels: Sequence[Tensor], solved: Sequence[Solution]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The maps (B, H, W), with the extras; labels (H, W) and values for every image."""
        areas = [own.flatten().bincount() for own in labels]
        parts = list(zip(labels, areas, solved, strict=True))
        values = torch.stack([(one.values / area)[own] for own, area, one in parts])
        rises, total = torch.stack([one.rise for one in solved]), values.sum((1, 2))
        return values, {
            "efficiency_error": relative_error(run, total, rises, run.score()),
            "standard_error": torch.stack([(one.errors / area)[own] for own, area, one in parts]),
            "segments": torch.stack(list(labels)),
        }

    def _explain(self, run: Run, image: int, labels: Tensor) -> Solution:
        """The Shapley values of one image's segments."""
        plan = SamplingPlan.of(
            self._segment_count(labels), (self.evaluations - 2) // 2, run.generator()
        )
        whole = run.score()[image].cpu().double()
        rise = whole - self._scores(run, image, labels, torch.zeros(1, plan.count) > 0)[0]
        solution = Solution(rise.expand(1), torch.zeros_like(rise).expand(1), rise)
        pairs = run.samples(2 + 2 * len(plan.sets), "copies", 2 + 4 * plan.count) // 2 - 1
        gains = torch.empty(0, dtype=torch.float64)

        def paint(more: Tensor) -> None:
            so_far = torch.cat([gains, more])
            if len(so_far) >= 2 * plan.count:  # before, the standard errors are too small
                run.paint(
                    2 + 2 * len(so_far),
                    lambda: self._maps(run, [labels], [plan.solve(so_far, rise)]),
                )

        while len(gains) < pairs:
            sets = plan.sets[len(gains) : min(pairs, self._pairs_after_round(len(gains), plan))]
            both = torch.stack([sets, ~sets], 1).flatten(0, 1)
            scores = self._scores(run, image, labels, both, paint)
            gains = torch.cat([gains, _gains(scores)])
            solution = plan.solve(gains, rise)
            if solution.errors.mean() <= self.tolerance * solution.values.abs().max():
                run.samples(2 + 2 * len(gains), "copies")  # these were all
                break
        return solution

    def _segment_count(self, labels: Tensor) -> int:
        """The number of segments, checked against the number of evaluations."""
        count = int(labels.max()) + 1
        if self.evaluations < min(2**count, 2 * count + 4):
            raise TimmscopeError(
                f"kernel_shap.evaluations = {self.evaluations} is too few for {count} "
                f"segments; give at least {2 * count + 4}, or use fewer segments"
            )
        return count

    def _pairs_after_round(self, pairs: int, plan: SamplingPlan) -> int:
        """How many pairs should be evaluated in total after the next round."""
        if not self.tolerance:
            return len(plan.sets)
        return max(pairs + PAIRS_PER_ROUND, 2 * plan.count)

    def _scores(
        self,
        run: Run,
        image: int,
        labels: Tensor,
        shown: Tensor,
        paint: Callable[[Tensor], None] = lambda gains: None,
    ) -> Tensor:
        """(n,) scores of copies that show the segments where `shown` (n, d) is True.

        Where they are pairs, `paint` is called with the gains of the pairs so far.
        """
        seen: list[Tensor] = []

        def watch(scores: Tensor) -> None:
            seen.append(scores.cpu().double())
            paint(_gains(torch.cat(seen)))

        masker = make_masker(run, image, self.baseline)
        rows = segment_masked_copies(run, image, masker, shown, labels)
        params = self.model_dump_json(exclude={"tolerance"})
        key = "kernel_shap", params, image, run.seed, shown.numpy().tobytes()
        return run.scores(rows, len(shown), keep=key, watch=watch).cpu().double()


def _gains(scores: Tensor) -> Tensor:
    """(n // 2,) the score of each set minus that of its complement, which follows it in (n,)."""
    return scores[: len(scores) // 2 * 2 : 2] - scores[1::2]


class Solution(NamedTuple):
    """Shapley values of segments.

    Attributes:
        values: (d,) of the segments.
        errors: (d,) their standard errors.
        rise: the sum that they have.
    """

    values: Tensor
    errors: Tensor
    rise: Tensor


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """The sets of segments to evaluate, each together with its complement, and their weights.

    Attributes:
        sets: (n, d) True for the segments in each set, in the order of evaluation.
        stratum: (n,) index of the stratum of each set. A stratum holds all sets of one size and
            their complements.
        numbers: (strata,) how many pairs of sets a stratum has in total.
        weights: (strata,) total weight of a stratum in the Shapley kernel.
    """

    sets: Tensor
    stratum: Tensor
    numbers: Tensor
    weights: Tensor

    @classmethod
    def of(cls, count: int, pairs: int, generator: torch.Generator) -> SamplingPlan:
        """At most `pairs` different pairs of sets of `count` segments.

        Strata are sampled in proportion to their weight until they are used up. This holds for
        every prefix of the plan, so the evaluation can stop early.
        """
        sizes = range(1, count // 2 + 1)
        numbers = [math.comb(count, s) // (2 if 2 * s == count else 1) for s in sizes]
        weights = [(1 if 2 * s == count else 2) / (s * (count - s)) for s in sizes]
        queue = [(-math.inf, i) for i in range(len(numbers))]
        order, taken = list[int](), [0] * len(numbers)
        while queue and len(order) < pairs:
            _, i = heapq.heappop(queue)
            order.append(i)
            taken[i] += 1
            if taken[i] < numbers[i]:
                heapq.heappush(queue, (-weights[i] / taken[i], i))
        strata = {
            i: iter(distinct_subsets(count, i + 1, n, generator)) for i, n in enumerate(taken) if n
        }
        rows = [next(strata[i]) for i in order]
        return cls(
            torch.stack(rows) if rows else torch.zeros(0, count, dtype=torch.bool),
            torch.tensor(order, dtype=torch.int64),
            torch.tensor(numbers, dtype=torch.float64),
            torch.tensor(weights, dtype=torch.float64),
        )

    @property
    def count(self) -> int:
        """The number of segments."""
        return self.sets.shape[1]

    def solve(self, gains: Tensor, rise: Tensor) -> Solution:
        """Shapley values and their standard errors.

        Args:
            gains: (m,) for the first m pairs of the plan, the score of the set minus that of its
                complement.
            rise: the sum that the values must have.
        """
        stratum, signs = self.stratum[: len(gains)], self.sets[: len(gains)].double() * 2 - 1
        taken = stratum.bincount(minlength=len(self.numbers)).double()
        # The last value follows from the sum, so it is not part of the regression.
        rows = signs[:, :-1] - signs[:, -1:]
        goal = gains - signs[:, -1] * rise
        weight = (self.weights / taken)[stratum][:, None]
        inverse = torch.linalg.pinv(rows.T @ (weight * rows), hermitian=True)
        free = inverse @ (rows.T @ (weight[:, 0] * goal))
        residuals = rows * (goal - rows @ free)[:, None]
        covariance = inverse @ self._residual_covariance(residuals, stratum, taken) @ inverse
        values = torch.cat([free, rise[None] - free.sum()[None]])
        variance = torch.cat([covariance.diagonal(), covariance.sum()[None]])
        return Solution(values, variance.clamp_min(0).sqrt(), rise)

    def _residual_covariance(self, residuals: Tensor, stratum: Tensor, taken: Tensor) -> Tensor:
        """Covariance (d - 1, d - 1) of the weighted sum of `residuals` (n, d - 1).

        Sets of a stratum are drawn without replacement, so a complete stratum has no variance.
        """
        shape = len(taken), residuals.shape[1]
        total = residuals.new_zeros(shape).index_add_(0, stratum, residuals)
        single = taken < 2
        mean = torch.where(single[:, None], 0.0, total / taken.clamp_min(1)[:, None])
        left_out = 1 - taken / self.numbers
        scale = self.weights.square() * left_out / (taken * (taken - 1).clamp_min(1))
        # Residuals of a fit are too small: correct for the degrees of freedom.
        degrees = max(1, len(residuals) - residuals.shape[1]) / len(residuals)
        centred = residuals - mean[stratum]
        return centred.T @ (scale[stratum][:, None] * centred) / degrees


def distinct_subsets(count: int, size: int, number: int, generator: torch.Generator) -> Tensor:
    """Random subsets of a given size, without repetition.

    If a subset has the same size as its complement, only the one that holds the first element can
    be drawn.

    Args:
        count: number of elements.
        size: size of the subsets.
        number: how many subsets.
        generator: source of randomness.

    Returns:
        (number, count) True for the elements of each subset, in random order.
    """
    halved = 2 * size == count
    if math.comb(count, size) <= 8 * number:
        chosen = [c for c in combinations(range(count), size) if not halved or c[0] == 0]
        order = torch.randperm(len(chosen), generator=generator)[:number]
        members = torch.tensor(chosen)[order]
        return torch.zeros(number, count, dtype=torch.bool).scatter_(1, members, True)
    found: dict[bytes, Tensor] = {}
    while len(found) < number:
        ranks = torch.rand((number, count), generator=generator).argsort(1).argsort(1)
        sets = ranks < size
        sets = sets ^ ~sets[:, :1] if halved else sets
        found |= {row.numpy().tobytes(): row for row in sets if row.numpy().tobytes() not in found}
    return torch.stack(list(found.values())[:number])

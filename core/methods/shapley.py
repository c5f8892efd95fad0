"""Shapley values: each part's fair share of what the picture adds to the score."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from core.errors import TimmscopeError
from core.methods.base import Method, register, relative_error
from core.methods.segmented import Segmented
from core.perturb.masks import (
    MASKS_PER_CHUNK,
    MaskBaseline,
    make_masker,
    masked_copies,
    segment_masked_copies,
)
from core.perturb.superpixels import grid_shape
from core.runtime.engine import Run, Subject
from core.types import Cost, Property

# -- Owen values of a picture halved again and again ----------------------------------------------

WAVE = 32
"""Copies between two decisions on what to halve next; fixed, so that passes cannot change a map."""

Block = tuple[int, int, int, int]
"""Top, bottom, left and right of a part of the picture, in pixels."""


class Marginal(NamedTuple):
    """What showing a block adds in one context; `hidden` and `shown` number the copies."""

    block: Block
    context: tuple[Block, ...]
    hidden: int
    shown: int
    share: float


@dataclass(frozen=True, slots=True)
class Grown:
    """All that is known once the evaluations are spent, whatever the target.

    Attributes:
        outputs: (n, N) the model's outputs of all copies.
        blocks: (k, 4) top, bottom, left and right of the blocks that were not halved further.
        ends: (k, 2) for each, the copies with it hidden and shown.
        shares: (k,) how much of the block's value is their difference.
    """

    outputs: Tensor
    blocks: Tensor
    ends: Tensor
    shares: Tensor


@register(
    "shap",
    label="SHAP (Partition)",
    family="shapley",
    about="Best for amounts that add up, in any model; not for outlines finer than its blocks.",
    paper="arXiv:1705.07874",
    properties=[
        Property.CLASS_SENSITIVE,
        Property.LOCALISES,
        Property.EFFICIENT,
        Property.LINEAR_EXACT,
    ],
)
class PartitionShap(Method):
    """Owen values over blocks, halved where it pays (Lundberg & Lee, 2017; Owen, 1977).

    The picture is halved across its longer side, and each block again. A block's value is what
    showing it adds, averaged over the contexts in which its siblings are shown or hidden, and is
    spread evenly over its pixels. What changes the outputs most is halved first. The map sums to
    the score's rise over the hidden picture; `efficiency_error` says how nearly.
    """

    evaluations: int = Field(
        500, ge=4, le=20000, description="Copies, the whole and the hidden picture included"
    )
    baseline: MaskBaseline = Field("blur", description="What hidden pixels become")
    order: Literal["outputs", "target"] = Field(
        "outputs",
        description="What decides where to look closer: all outputs, and then another target "
        "costs nothing, or the target alone",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.evaluations)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        maps, rises = zip(*(self._explained(run, i) for i in range(len(run.x))), strict=True)
        values = torch.stack(maps)
        run.extras["efficiency_error"] = relative_error(values.sum((1, 2)), torch.stack(rises))
        return values, run.score()

    def _explained(self, run: Run, image: int) -> tuple[Tensor, Tensor]:
        """One image's map (H, W), and what it should sum to."""
        deciding = run.target.key if self.order == "target" else ""
        key = "shap", self.model_dump_json(), image, deciding
        grown = run.cache_scope.get_or_compute(key, lambda: self._grow(run, image))
        scores = run.target(grown.outputs, run.owner[image].expand(len(grown.outputs)))
        scores = scores.cpu().double()
        hidden, shown = scores[grown.ends].unbind(1)
        gains = (grown.shares * (shown - hidden)).tolist()
        values = torch.zeros(run.x.shape[2:], dtype=torch.float64)
        for (top, bottom, left, right), gain in zip(grown.blocks.tolist(), gains, strict=True):
            values[top:bottom, left:right] += gain / ((bottom - top) * (right - left))
        return values, scores[0] - scores[1]

    def _grow(self, run: Run, image: int) -> Grown:
        """Spend the evaluations on one image, best first."""
        run.progress.expect(self.evaluations - 1)
        height, width = run.x.shape[-2:]
        whole = run.outputs()[image : image + 1]
        outputs = whole.new_empty(self.evaluations, whole.shape[1])
        outputs[:1], outputs[1:2] = whole, self._replies(run, image, [()])
        known, done = 2, list[Marginal]()
        queue = [(0.0, Marginal((0, height, 0, width), (), 1, 0, 1.0))]
        while wave := self._wave(queue, done, self.evaluations - known):
            asked = [(*m.context, half) for m in wave for half in halves(m.block)]
            outputs[known : known + len(asked)] = self._replies(run, image, asked)
            parts = [p for i, m in enumerate(wave) for p in split(m, known + 2 * i)]
            self._enqueue(run, image, outputs, queue, parts)
            known += len(asked)
        done += [marginal for _, marginal in queue]
        return Grown(
            outputs[:known].clone(),
            torch.tensor([m.block for m in done]),
            torch.tensor([(m.hidden, m.shown) for m in done]),
            torch.tensor([m.share for m in done], dtype=torch.float64),
        )

    def _wave(
        self, queue: list[tuple[float, Marginal]], done: list[Marginal], left: int
    ) -> list[Marginal]:
        """The next to be halved, of `left` evaluations; single pixels go to `done`."""
        wave: list[Marginal] = []
        while queue and 2 * len(wave) < WAVE and 2 * len(wave) + 2 <= left:
            marginal = heapq.heappop(queue)[1]
            (wave if halves(marginal.block) else done).append(marginal)
        return wave

    def _enqueue(
        self,
        run: Run,
        image: int,
        outputs: Tensor,
        queue: list[tuple[float, Marginal]],
        parts: Sequence[Marginal],
    ) -> None:
        """Queue marginals, those that change most first."""
        shown = outputs[[m.shown for m in parts]]
        hidden = outputs[[m.hidden for m in parts]]
        if self.order == "target":
            owner = run.owner[image].expand(len(parts))
            shown, hidden = run.target(shown, owner)[:, None], run.target(hidden, owner)[:, None]
        changes = (shown - hidden).abs().amax(1).tolist()
        for marginal, change in zip(parts, changes, strict=True):
            heapq.heappush(queue, (-change * marginal.share, marginal))

    def _replies(self, run: Run, image: int, asked: Sequence[tuple[Block, ...]]) -> Tensor:
        """(n, N) outputs of copies that show the union of some blocks each."""

        def step(rows: Tensor, _owner: Tensor) -> Tensor:
            with torch.no_grad():
                return run.logits(rows)

        rows = masked_copies(
            run, image, make_masker(run, image, self.baseline), drawn(run.x, asked)
        )
        return torch.cat([out for _, out in run.stream(rows, step, expected=len(asked))])


def halves(block: Block) -> tuple[Block, ...]:
    """The two halves of a block across its longer side; none of a single pixel.

    >>> halves((0, 4, 0, 3)), halves((0, 1, 2, 3))
    (((0, 2, 0, 3), (2, 4, 0, 3)), ())
    """
    top, bottom, left, right = block
    if bottom - top >= right - left and bottom - top > 1:
        middle = top + (bottom - top) // 2
        return (top, middle, left, right), (middle, bottom, left, right)
    if right - left > 1:
        middle = left + (right - left) // 2
        return (top, bottom, left, middle), (top, bottom, middle, right)
    return ()


def split(marginal: Marginal, first: int) -> tuple[Marginal, ...]:
    """A block's value by its halves: each shown before the other and after it, in equal shares.

    Args:
        marginal: what is split.
        first: the number of the copy that adds the first half alone; the next adds the second.
    """
    (one, other), (_, context, hidden, shown, share) = halves(marginal.block), marginal
    return (
        Marginal(one, context, hidden, first, share / 2),
        Marginal(other, context, hidden, first + 1, share / 2),
        Marginal(one, (*context, other), first + 1, shown, share / 2),
        Marginal(other, (*context, one), first, shown, share / 2),
    )


def drawn(x: Tensor, asked: Sequence[tuple[Block, ...]]) -> Iterator[Tensor]:
    """Masks (k, H, W) that show the union of some blocks each, a few at a time."""
    for start in range(0, len(asked), MASKS_PER_CHUNK):
        some = asked[start : start + MASKS_PER_CHUNK]
        shown = torch.zeros(len(some), *x.shape[-2:], dtype=torch.bool)
        for mask, blocks in zip(shown, some, strict=True):
            for top, bottom, left, right in blocks:
                mask[top:bottom, left:right] = True
        yield shown.to(x.device)


# -- Shapley values by weighted least squares -----------------------------------------------------

ROUND = 64
"""Pairs of copies between two looks at the standard error."""


@register(
    "kernel_shap",
    label="KernelSHAP",
    family="shapley",
    about="Best for Shapley values of whole regions, with error bars; not for detail within one.",
    paper="arXiv:2012.01536",
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.EFFICIENT],
)
class KernelShap(Segmented):
    """Shapley values of the picture's parts, by paired sampling (Covert & Lee, 2021).

    A set of parts is always asked about together with its complement, which leaves one unknown less
    to noise. No set is asked about twice; small and large ones, which weigh most, come first. With
    2^parts evaluations at hand the values are exact. A part's value is spread evenly over its
    pixels, so that the map sums to the score's rise over the hidden picture (`efficiency_error`
    says how nearly); `standard_error` is a map alike, and `segments` are the parts.
    """

    evaluations: int = Field(
        2048,
        ge=4,
        le=50000,
        description="Copies at most, the whole and the hidden picture included",
    )
    baseline: MaskBaseline = Field("blur", description="What hidden parts become")
    tolerance: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Stops when the mean standard error is below this share of the largest value; "
        "0 for never",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        if self.segmentation != "grid":
            return Cost(self.evaluations)
        rows, columns = grid_shape(*subject.input_size[1:], self.segments)
        return Cost(min(self.evaluations, 2 ** min(rows * columns, 64)))

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        labels = [self.labels(run, image) for image in range(len(run.x))]
        maps = [self._explained(run, image, parts) for image, parts in enumerate(labels)]
        values, errors, rises = (torch.stack(part) for part in zip(*maps, strict=True))
        run.extras["efficiency_error"] = relative_error(values.sum((1, 2)), rises)
        run.extras["standard_error"] = errors
        run.extras["segments"] = torch.stack(labels)
        return values, run.score()

    def _explained(self, run: Run, image: int, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One image's map (H, W), its standard error, and what the map should sum to."""
        plan = Plan.of(self._checked(labels), (self.evaluations - 2) // 2, run.generator())
        whole = run.score()[image].cpu().double()
        rise = whole - self._scores(run, image, labels, torch.zeros(1, plan.count) > 0)[0]
        values, error, pairs = rise.expand(1), torch.zeros_like(rise).expand(1), len(plan.sets)
        gains = torch.empty(0, dtype=torch.float64)
        while len(gains) < pairs:
            some = plan.sets[len(gains) : self._until(len(gains), plan)]
            scores = self._scores(run, image, labels, torch.stack([some, ~some], 1).flatten(0, 1))
            gains = torch.cat([gains, scores[::2] - scores[1::2]])
            values, error = plan.solve(gains, rise)
            if error.mean() <= self.tolerance * values.abs().max():
                break
        area = labels.flatten().bincount()
        return (values / area)[labels], (error / area)[labels], rise

    def _checked(self, labels: Tensor) -> int:
        count = int(labels.max()) + 1
        if self.evaluations < min(2**count, 2 * count + 4):
            raise TimmscopeError(
                f"kernel_shap.evaluations = {self.evaluations} is too few for {count} parts; "
                f"give at least {2 * count + 4}, or ask for fewer parts"
            )
        return count

    def _until(self, pairs: int, plan: Plan) -> int:
        """How many pairs to have after the next round."""
        if not self.tolerance:
            return len(plan.sets)
        return max(pairs + ROUND, 2 * plan.count)

    def _scores(self, run: Run, image: int, labels: Tensor, parts: Tensor) -> Tensor:
        """(n,) scores of copies that show some parts (n, d) each."""
        rows = segment_masked_copies(
            run, image, make_masker(run, image, self.baseline), parts, labels
        )
        asked = self.model_dump_json(exclude={"tolerance"})
        which = "kernel_shap", asked, image, run.seed, parts.numpy().tobytes()
        return run.scores(rows, len(parts), keep=which).cpu().double()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which sets of parts are asked about, each together with its complement, and how they count.

    Attributes:
        sets: (n, d) True for the parts in each set, in the order in which they are asked about.
        stratum: (n,) which sets are of one size; a set and its complement count as one.
        numbers: (strata,) how many there are.
        weights: (strata,) the Shapley kernel's weight of all of them together.
    """

    sets: Tensor
    stratum: Tensor
    numbers: Tensor
    weights: Tensor

    @classmethod
    def of(cls, count: int, pairs: int, generator: torch.Generator) -> Plan:
        """At most `pairs` pairs of sets of `count` parts, none twice.

        Whatever their number, sizes are asked about in proportion to their weight as far as there
        are sets of that size, so that the first pairs of a plan are a plan themselves.
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
        kinds = {i: iter(distinct(count, i + 1, n, generator)) for i, n in enumerate(taken) if n}
        rows = [next(kinds[i]) for i in order]
        return cls(
            torch.stack(rows) if rows else torch.zeros(0, count, dtype=torch.bool),
            torch.tensor(order, dtype=torch.int64),
            torch.tensor(numbers, dtype=torch.float64),
            torch.tensor(weights, dtype=torch.float64),
        )

    @property
    def count(self) -> int:
        """The number of parts."""
        return self.sets.shape[1]

    def solve(self, gains: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
        """Shapley values (d,) and their standard errors.

        Args:
            gains: for the first pairs of the plan, the score of the set less that of its
                complement.
            rise: what the values must sum to.
        """
        stratum, signs = self.stratum[: len(gains)], self.sets[: len(gains)].double() * 2 - 1
        taken = stratum.bincount(minlength=len(self.numbers)).double()
        # The last part's value is what is left of the rise, and takes no part in the regression.
        rows = signs[:, :-1] - signs[:, -1:]
        goal = gains - signs[:, -1] * rise
        weight = (self.weights / taken)[stratum][:, None]
        inverse = torch.linalg.pinv(rows.T @ (weight * rows), hermitian=True)
        free = inverse @ (rows.T @ (weight[:, 0] * goal))
        pull = rows * (goal - rows @ free)[:, None]
        covariance = inverse @ self._noise(pull, stratum, taken) @ inverse
        values = torch.cat([free, rise[None] - free.sum()[None]])
        variance = torch.cat([covariance.diagonal(), covariance.sum()[None]])
        return values, variance.clamp_min(0).sqrt()

    def _noise(self, pull: Tensor, stratum: Tensor, taken: Tensor) -> Tensor:
        """The covariance of the weighted sum of what each pair pulls (n, d - 1) at the values.

        Sets of one size are drawn without replacement: with all of them nothing is left to chance.
        """
        total = pull.new_zeros(len(taken), pull.shape[1]).index_add_(0, stratum, pull)
        single = taken < 2
        mean = torch.where(single[:, None], 0.0, total / taken.clamp_min(1)[:, None])
        left_out = 1 - taken / self.numbers
        scale = self.weights.square() * left_out / (taken * (taken - 1).clamp_min(1))
        degrees = max(1, len(pull) - pull.shape[1]) / len(pull)  # a fit is closer than the truth
        around = pull - mean[stratum]
        return around.T @ (scale[stratum][:, None] * around) / degrees


def distinct(count: int, size: int, number: int, generator: torch.Generator) -> Tensor:
    """(number, count) different sets of `size` out of `count`, in random order.

    Of a set and its complement of the same size, only the one with the first part in it is given.
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

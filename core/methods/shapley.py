"""Partition SHAP: Owen values over blocks of the picture that are halved recursively."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register, relative_error
from core.perturb.masks import MASKS_PER_CHUNK, MaskBaseline, make_masker, masked_copies
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.outputs import Outputs, joined
from core.types import Cost, Property

EVALUATIONS_PER_STEP = 32
"""Copies evaluated between two decisions on which blocks to halve next. It is fixed, so that the
map does not depend on the batch size."""

FEWEST = 34
"""Copies before the first partial map: enough for some 16 blocks."""

Block = tuple[int, int, int, int]
"""Top, bottom, left and right edge of a block of the picture, in pixels; bottom and right are
exclusive."""


class Marginal(NamedTuple):
    """The marginal contribution of showing a block in one context.

    Attributes:
        block: the block.
        context: the other blocks that are shown.
        hidden: index of the copy that shows only the context.
        shown: index of the copy that shows the context and the block.
        weight: weight of this contribution in the Owen value.
    """

    block: Block
    context: tuple[Block, ...]
    hidden: int
    shown: int
    weight: float


@dataclass(frozen=True, slots=True)
class Partition:
    """The result of all evaluations of one image. It does not depend on the target.

    Attributes:
        outputs: the model's outputs for all copies.
        blocks: (k, 4) the blocks of the final marginal contributions.
        copies: (k, 2) for each, the indices of the copies with the block hidden and shown.
        weights: (k,) the weights of the contributions.
    """

    outputs: Outputs
    blocks: Tensor
    copies: Tensor
    weights: Tensor


@register(
    "shap",
    label="SHAP (Partition)",
    family="shapley",
    about="Best for contributions that add up, in any model; not for detail finer than blocks.",
    paper="arXiv:1705.07874",
    properties=[
        Property.CLASS_SENSITIVE,
        Property.LOCALISES,
        Property.EFFICIENT,
        Property.LINEAR_EXACT,
    ],
)
class PartitionShap(Method):
    """Owen values over blocks that are halved recursively (Lundberg & Lee, 2017; Owen, 1977).

    The picture and then each block is halved across its longer side. A block's value is its
    marginal contribution, averaged over the contexts in which its siblings are shown or hidden, and
    spread evenly over its pixels. Blocks that change the outputs most are halved first. The map
    sums to the score minus the score of the fully hidden picture; `extras["efficiency_error"]` is
    the relative difference. `extras["block_share"]` says how fine the map is: the share of the
    picture that a block takes, on average over the evidence.
    """

    evaluations: int = Field(
        500,
        ge=4,
        le=20000,
        description="Number of masked copies, including the full and the fully hidden picture",
    )
    baseline: MaskBaseline = Field("blur", description="What replaces hidden pixels")
    order: Literal["outputs", "target"] = Field(
        "outputs",
        title="Splitting criterion",
        description="Which blocks are halved first: those that change any output (outputs; another "
        "target then takes no further passes), or those that change the target's score (target)",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.evaluations)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        taken = run.samples(self.evaluations, "copies", FEWEST)
        criterion = run.target.key if self.order == "target" else ""
        key = "shap", self.model_dump_json(), taken, criterion
        partitions = [
            run.cache_scope.get_or_compute(
                (*key, image), functools.partial(self._partition, run, image, taken)
            )
            for image in range(len(run.x))
        ]
        values, extras = self._maps(run, partitions)
        run.extras |= extras
        return values, run.score()

    def _maps(self, run: Run, partitions: Sequence[Partition]) -> tuple[Tensor, dict[str, Tensor]]:
        """The maps (B, H, W) of partitions of all images, with the extras."""
        found = [self._map(run, image, one) for image, one in enumerate(partitions)]
        values, rises, blocks = (torch.stack(part) for part in zip(*found, strict=True))
        error = relative_error(run, values.sum((1, 2)), rises, run.score())
        return values, {"efficiency_error": error, "block_share": blocks}

    def _map(self, run: Run, image: int, found: Partition) -> tuple[Tensor, Tensor, Tensor]:
        """The map (H, W) of one image, the sum that it should have, and its block share."""
        scores = run.target(found.outputs, run.owner[image].expand(len(found.outputs)))
        scores = scores.cpu().double()
        hidden, shown = scores[found.copies].unbind(1)
        gains = (found.weights * (shown - hidden)).tolist()
        values = torch.zeros(run.x.shape[2:], dtype=torch.float64)
        for (top, bottom, left, right), gain in zip(found.blocks.tolist(), gains, strict=True):
            values[top:bottom, left:right] += gain / ((bottom - top) * (right - left))
        return values, scores[0] - scores[1], _block_share(found.blocks, gains, values.numel())

    def _partition(self, run: Run, image: int, evaluations: int) -> Partition:
        """Spends all evaluations on one image, halving the most important blocks first."""
        run.progress.expect(evaluations - 1)
        height, width = run.x.shape[-2:]
        whole = run.outputs().select(torch.tensor([image]))
        outputs, done = joined([whole, self._outputs(run, image, [()])]), list[Marginal]()
        queue = [(0.0, Marginal((0, height, 0, width), (), 1, 0, 1.0))]
        while chosen := self._next_splits(queue, done, evaluations - len(outputs)):
            copies = [(*m.context, half) for m in chosen for half in halves(m.block)]
            parts = [p for i, m in enumerate(chosen) for p in split(m, len(outputs) + 2 * i)]
            outputs = joined([outputs, self._outputs(run, image, copies)])
            self._enqueue(run, image, outputs, queue, parts)
            if len(outputs) >= FEWEST:
                so_far = functools.partial(self._so_far, run, outputs, done, queue)
                run.paint(len(outputs), so_far)
        return _as_partition(outputs, [*done, *(marginal for _, marginal in queue)])

    def _so_far(
        self,
        run: Run,
        outputs: Outputs,
        done: list[Marginal],
        queue: list[tuple[float, Marginal]],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The map of the blocks as they are cut now, of a run with one image."""
        marginals = [*done, *(marginal for _, marginal in queue)]
        return self._maps(run, [_as_partition(outputs, marginals)])

    def _next_splits(
        self, queue: list[tuple[float, Marginal]], done: list[Marginal], left: int
    ) -> list[Marginal]:
        """The contributions to split next with `left` evaluations; single pixels go to `done`."""
        chosen: list[Marginal] = []
        limit = min(EVALUATIONS_PER_STEP - 1, left - 2)
        while queue and 2 * len(chosen) <= limit:
            marginal = heapq.heappop(queue)[1]
            (chosen if halves(marginal.block) else done).append(marginal)
        return chosen

    def _enqueue(
        self,
        run: Run,
        image: int,
        outputs: Outputs,
        queue: list[tuple[float, Marginal]],
        parts: Sequence[Marginal],
    ) -> None:
        """Adds contributions to the queue, largest weighted change first."""
        shown = outputs.select(torch.tensor([m.shown for m in parts]))
        hidden = outputs.select(torch.tensor([m.hidden for m in parts]))
        if self.order == "target":
            owner = run.owner[image].expand(len(parts))
            changes = (run.target(shown, owner) - run.target(hidden, owner)).abs()
        else:
            changes = shown.change(hidden)
        for marginal, change in zip(parts, changes.tolist(), strict=True):
            heapq.heappush(queue, (-change * marginal.weight, marginal))

    def _outputs(self, run: Run, image: int, shown: Sequence[tuple[Block, ...]]) -> Outputs:
        """The model's outputs for copies that each show the union of some blocks."""

        def step(rows: Tensor, _owner: Tensor) -> Outputs:
            with torch.no_grad():
                return run.forward(rows)

        masker = make_masker(run, image, self.baseline)
        rows = masked_copies(run, image, masker, block_masks(run.x, shown))
        return joined([out for _, out in run.stream(rows, step, expected=len(shown))])


def _as_partition(outputs: Outputs, marginals: Sequence[Marginal]) -> Partition:
    return Partition(
        outputs,
        torch.tensor([m.block for m in marginals]),
        torch.tensor([(m.hidden, m.shown) for m in marginals]),
        torch.tensor([m.weight for m in marginals], dtype=torch.float64),
    )


def _block_share(blocks: Tensor, gains: Sequence[float], pixels: int) -> Tensor:
    """The share of the picture that a block takes, on average over the evidence; see `shap`."""
    sizes = ((blocks[:, 1] - blocks[:, 0]) * (blocks[:, 3] - blocks[:, 2])).double() / pixels
    evidence = torch.tensor(gains, dtype=torch.float64).abs()
    return (evidence @ sizes) / evidence.sum().clamp_min(torch.finfo(torch.float64).tiny)


def halves(block: Block) -> tuple[Block, ...]:
    """The two halves of a block across its longer side; empty for a single pixel.

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
    """Splits a contribution into those of the block's halves, without and with the other half.

    Args:
        marginal: the contribution to split; its block must have two halves.
        first: index of the copy that shows the context and the first half; the next index is the
            copy with the second half.
    """
    (one, other), (_, context, hidden, shown, weight) = halves(marginal.block), marginal
    return (
        Marginal(one, context, hidden, first, weight / 2),
        Marginal(other, context, hidden, first + 1, weight / 2),
        Marginal(one, (*context, other), first + 1, shown, weight / 2),
        Marginal(other, (*context, one), first, shown, weight / 2),
    )


def block_masks(x: Tensor, shown: Sequence[tuple[Block, ...]]) -> Iterator[Tensor]:
    """Yields masks (k, H, W) that are True on the union of some blocks each, a few at a time."""
    for start in range(0, len(shown), MASKS_PER_CHUNK):
        chunk = shown[start : start + MASKS_PER_CHUNK]
        masks = torch.zeros(len(chunk), *x.shape[-2:], dtype=torch.bool)
        for mask, blocks in zip(masks, chunk, strict=True):
            for top, bottom, left, right in blocks:
                mask[top:bottom, left:right] = True
        yield masks.to(x.device)

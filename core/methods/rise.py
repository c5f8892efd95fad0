"""RISE: the mean score of randomly masked copies that show a pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.methods.base import Method, register
from core.perturb.baselines import Baseline, baseline_images
from core.perturb.masks import MASKS_PER_CHUNK
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Property

FEWEST = 2 * MASKS_PER_CHUNK
"""Masks before the first partial map."""


@register(
    "rise",
    label="RISE",
    family="perturbation",
    about="Best for large evidence in any model; not for fine detail, signs or quick answers.",
    paper="arXiv:1806.07421",
    properties=[Property.CLASS_SENSITIVE],
)
class Rise(Method):
    """Mean score of randomly masked copies that show a pixel (Petsiuk et al., 2018).

    All values are close to the mean score of all copies, and evidence is slightly above it. So the
    values rank pixels, but their ratios have no meaning. Masks are coarse random grids, upsampled
    bilinearly and shifted at random. `extras["standard_error"]` is a map of standard errors.
    """

    masks: int = Field(4000, ge=2, le=20000, description="Number of masked copies of each picture")
    grid: int = Field(7, ge=2, le=32, description="Number of mask cells along each side")
    shown: float = Field(0.5, ge=0.05, le=0.95, description="Probability that a mask cell is shown")
    baseline: Baseline = Field("zero", description="What replaces hidden pixels")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.masks + 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        x, replacement, count = run.x, baseline_images(self.baseline, run), len(run.x)
        taken = run.samples(self.masks, "masks", FEWEST)
        sums = _Sums(self._masks(run, taken), x)

        def masked() -> Iterator[Chunk]:
            for masks in self._masks(run, taken):
                weight = masks[:, None, None]  # (k, 1, 1, H, W)
                yield (
                    (weight * x + (1 - weight) * replacement).flatten(0, 1),
                    run.owner.repeat(len(masks)),
                )

        def watch(scores: Tensor) -> None:
            sums.add(scores)
            if sums.done >= FEWEST:
                run.paint(sums.done, lambda: self._map(sums))

        scores = run.scores(masked(), taken * count, keep=(self, taken, run.seed), watch=watch)
        sums.add(scores[sums.seen :])
        values, extras = self._map(sums)
        run.extras |= extras
        return values, run.score()

    def _map(self, sums: _Sums) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the masks so far, and its standard error."""
        mean = sums.total / sums.done
        spread = (sums.squares / sums.done - mean.square()).clamp_min(0).sqrt()
        error = spread / math.sqrt(sums.done) / self.shown
        return mean / self.shown, {"standard_error": error}

    def _masks(self, run: Run, count: int) -> Iterator[Tensor]:
        """Yields masks (k, H, W) from 0 (hidden) to 1 (shown), `count` in all.

        Every call yields the same ones, and a smaller count the first of them.
        """
        generator, (height, width) = run.generator(), run.x.shape[-2:]
        cell = math.ceil(height / self.grid), math.ceil(width / self.grid)
        cells = torch.rand((self.masks, self.grid, self.grid), generator=generator) < self.shown
        shifts = torch.rand((self.masks, 2), generator=generator) * torch.tensor(cell)
        large = [(self.grid + 1) * side for side in cell]
        for some, starts in zip(
            cells[:count].split(MASKS_PER_CHUNK),
            shifts[:count].split(MASKS_PER_CHUNK),
            strict=True,
        ):
            enlarged = F.interpolate(some[:, None].to(run.x), size=large, mode="bilinear")[:, 0]
            yield torch.stack(
                [
                    mask[top : top + height, left : left + width]
                    for mask, (top, left) in zip(enlarged, starts.long().tolist(), strict=True)
                ]
            )


class _Sums:
    """Sums over masks, added up as their scores come.

    Args:
        masks: (k, H, W) chunk by chunk.
        x: (B, C, H, W) the images.

    Attributes:
        total: (B, H, W) the sum of the masks, each times its score.
        squares: (B, H, W) the sum of the squares of these products.
        done: masks in the sums.
        seen: scores given so far.
    """

    def __init__(self, masks: Iterator[Tensor], x: Tensor) -> None:
        self.total, self.squares = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        self.done = self.seen = 0
        self._masks, self._next = masks, next(masks, None)
        self._waiting = x.new_zeros(0)

    def add(self, scores: Tensor) -> None:
        """Adds scores (n,) of masked copies, mask by mask and for each mask of every image."""
        self.seen += len(scores)
        self._waiting, images = torch.cat([self._waiting, scores]), len(self.total)
        while (masks := self._next) is not None and len(self._waiting) >= images * len(masks):
            some = self._waiting[: images * len(masks)].view(-1, images)
            self._waiting = self._waiting[some.numel() :]
            self.total += torch.einsum("nb,nhw->bhw", some, masks)
            self.squares += torch.einsum("nb,nhw->bhw", some.square(), masks.square())
            self.done += len(masks)
            self._next = next(self._masks, None)

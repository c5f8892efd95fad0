"""Occlusion: how the score changes when parts of the picture are covered."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register
from core.perturb.baselines import Baseline, baseline_images
from core.perturb.masks import inpainted
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Property

Square = tuple[slice, slice]
"""Rows and columns of the picture."""
FEWEST = 8
"""Squares before the first partial map."""


@register(
    "occlusion",
    label="Occlusion",
    family="perturbation",
    about="Best for any model, also without gradients; not for detail finer than the window.",
    paper="arXiv:1311.2901",
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.LINEAR_EXACT],
)
class Occlusion(Method):
    """The drop of the score when a square is covered (Zeiler & Fergus, 2013).

    A pixel's value is the mean drop over all squares that cover it.
    """

    window: int = Field(32, ge=1, le=512, description="Side of the square, in input pixels")
    stride: int = Field(16, ge=1, le=512, description="Step between squares, in input pixels")
    baseline: Baseline = Field("zero", description="What replaces the pixels of the square")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(len(list(self._squares(*subject.input_size[1:]))) + 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        x, replacement, score = run.x, baseline_images(self.baseline, run), run.score()
        every = list(self._squares(x.shape[2], x.shape[3]))
        squares = every[: run.samples(len(every), "squares", FEWEST)]
        drops = _Drops(squares, score, x)

        def covered() -> Iterator[Chunk]:
            for rows, columns in squares:
                hidden = x.clone()
                hidden[:, :, rows, columns] = replacement[:, :, rows, columns]
                yield hidden, run.owner

        def watch(scores: Tensor) -> None:
            drops.add(scores)
            if drops.done >= FEWEST:
                run.paint(drops.done, lambda: drops.so_far(times))

        times = _times_covered(every, x)
        key = self, len(squares), run.seed
        scores = run.scores(covered(), len(squares) * len(x), keep=key, watch=watch)
        drops.add(scores[drops.seen :])
        if len(squares) == len(every):
            return drops.mean(), score
        values, extras = drops.so_far(times)
        run.extras |= extras
        return values, score

    def _squares(self, height: int, width: int) -> Iterator[Square]:
        """The squares from coarse to fine: those first whose places are multiples of 2^n steps."""
        rows, columns = (_starts(side, self.window, self.stride) for side in (height, width))
        places = itertools.product(range(len(rows)), range(len(columns)))
        for i, j in sorted(places, key=lambda place: -_twos(place[0] | place[1])):
            top, left = rows[i], columns[j]
            yield slice(top, top + self.window), slice(left, left + self.window)


class _Drops:
    """The drops of the score, added up as they come.

    Args:
        squares: what is covered, in this order.
        score: (B,) of the unchanged images.
        x: (B, C, H, W) the images.

    Attributes:
        done: squares in the sums.
        seen: scores given so far.
    """

    def __init__(self, squares: Sequence[Square], score: Tensor, x: Tensor) -> None:
        self.done = self.seen = 0
        self._squares, self._score = squares, score
        self._total, self._times = torch.zeros_like(x[:, 0]), torch.zeros_like(x[0, 0])
        self._waiting, self._drops = score.new_zeros(0), list[Tensor]()

    def add(self, scores: Tensor) -> None:
        """Adds scores (n,) of covered copies, square by square and for each of every image."""
        self.seen += len(scores)
        self._waiting, images = torch.cat([self._waiting, scores]), len(self._score)
        ready = self._waiting[: len(self._waiting) // images * images]
        self._waiting = self._waiting[len(ready) :]
        for occluded in ready.view(-1, images):
            rows, columns = self._squares[self.done]
            self._total[:, rows, columns] += (self._score - occluded)[:, None, None]
            self._times[rows, columns] += 1
            self._drops.append(self._score - occluded)
            self.done += 1

    def mean(self) -> Tensor:
        """(B, H, W) the mean drop over the squares that cover a pixel; 0 where none does."""
        return self._total / self._times.clamp_min(1)

    def so_far(self, times: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map of one image, of which only some squares were covered, and its standard error.

        A pixel that no square has covered yet is filled in from those around it. The standard
        error is that of a mean over some of a pixel's squares, if they differ as all squares do.

        Args:
            times: (H, W) how many squares will have covered each pixel.
        """
        known = self._times > 0
        values = inpainted(self.mean(), known[None])[0].where(times > 0, 0)
        spread = torch.stack(self._drops).std(0)[:, None, None]
        missing = (1 / self._times.clamp_min(1) - 1 / times.clamp_min(1)).clamp_min(0).sqrt()
        return values, {"standard_error": spread * missing.where(known | (times == 0), 1)}


def _times_covered(squares: Sequence[Square], x: Tensor) -> Tensor:
    """(H, W) how many of the squares cover each pixel of images (B, C, H, W)."""
    times = torch.zeros_like(x[0, 0])
    for rows, columns in squares:
        times[rows, columns] += 1
    return times


def _twos(number: int) -> int:
    """The largest power of 2 that divides a number; of 0, more than that of any other.

    >>> [_twos(number) for number in (1, 2, 3, 12)]
    [1, 2, 1, 4]
    """
    return number & -number or sys.maxsize


def _starts(size: int, window: int, stride: int) -> range:
    """Where windows start; the last one reaches the border of the picture and may be cut off."""
    count = max(0, math.ceil((size - window) / stride)) + 1
    return range(0, count * stride, stride)

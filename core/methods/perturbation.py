"""Occlusion: how the score changes when parts of the picture are covered."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register
from core.perturb.baselines import Baseline, baseline_images
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Property


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
        squares = list(self._squares(x.shape[2], x.shape[3]))

        def covered() -> Iterator[Chunk]:
            for rows, columns in squares:
                hidden = x.clone()
                hidden[:, :, rows, columns] = replacement[:, :, rows, columns]
                yield hidden, run.owner

        flat = run.scores(covered(), len(squares) * len(x), keep=(self, run.seed))
        scores = flat.unflatten(0, (-1, len(x)))
        total, times = torch.zeros_like(x[:, 0]), torch.zeros_like(x[0, 0])
        for (rows, columns), occluded in zip(squares, scores, strict=True):
            total[:, rows, columns] += (score - occluded)[:, None, None]
            times[rows, columns] += 1
        return total / times.clamp_min(1), score

    def _squares(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        for top in _starts(height, self.window, self.stride):
            for left in _starts(width, self.window, self.stride):
                yield slice(top, top + self.window), slice(left, left + self.window)


def _starts(size: int, window: int, stride: int) -> range:
    """Where windows start; the last one reaches the border of the picture and may be cut off."""
    count = max(0, math.ceil((size - window) / stride)) + 1
    return range(0, count * stride, stride)

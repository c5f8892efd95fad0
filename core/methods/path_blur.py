"""Gradients gathered while the picture comes into focus."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register
from core.methods.path import completeness_error, in_steps
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


@register(
    "blur_ig",
    label="Blur IG",
    family="path",
    about="Best for seeing which detail counts, with no colour to start from; not for flat areas.",
    paper="arXiv:2004.03383",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class BlurIG(Method):
    """Gradients times what each bit of focus changes, from blurred to sharp (Xu et al., 2020).

    Blurs of evenly spaced widths make up the path; each gradient is taken half-way between two of
    them and multiplied by their difference, so that on a linear model nothing is lost. Beyond the
    rim lies zero in model units, as in the authors' program. The completeness error is against the
    score of the most blurred picture.
    """

    steps: int = Field(100, ge=1, le=1000, description="Gradient passes")
    max_sigma: float = Field(
        50.0, ge=0.1, le=500, title="Largest blur", description="Where the path starts, in pixels"
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.steps + 2, self.steps)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        width = self.max_sigma / self.steps

        def path() -> Iterator[Chunk]:
            for step in range(self.steps):
                yield blurred(run.x, (step + 0.5) * width), run.owner

        values, sharp = torch.zeros_like(run.x[:, 0]), run.x
        stream = run.gradients(path(), expected=self.steps * len(run.x))
        for step, (_, grad) in enumerate(in_steps(stream, len(run.x))):
            soft = blurred(run.x, (step + 1) * width)
            values += ((sharp - soft) * grad).sum(1)
            sharp = soft
        floor = run.scores([(sharp, run.owner)], len(sharp), keep=(self.key, self.max_sigma))
        run.extras["completeness_error"] = completeness_error(values, run, floor)
        return values, run.score()


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Pictures (B, C, H, W) under a Gaussian of standard deviation `sigma` pixels.

    Zero lies beyond the rim; the kernel ends at four standard deviations.
    """
    rows, columns = (_smoothing(size, sigma).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.T


def _smoothing(size: int, sigma: float) -> Tensor:
    """The matrix (size, size) that smooths a line of pixels."""
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel /= 2 * kernel.sum() - 1
    apart = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    return torch.where(apart <= radius, kernel[apart.clamp_max(radius)], 0)

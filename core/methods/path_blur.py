"""Gradients integrated along a path from a blurred to the sharp picture."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import MORE_STEPS, Method, register
from core.methods.path import FEWEST, in_steps, with_error
from core.methods.quadrature import coarse_to_fine
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


@register(
    "blur_ig",
    label="Blur IG",
    family="path",
    about="Best for which detail matters, without a baseline colour; not for uniform areas.",
    paper="arXiv:2004.03383",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class BlurIG(Method):
    """Integrated Gradients along a path of decreasing blur (Xu et al., 2020).

    The path consists of Gaussian blurs with evenly spaced sigmas. Each gradient is taken half-way
    between two of them and multiplied by their difference, so the map is exact on a linear model.
    The steps are taken from coarse to fine; a map of some of them is scaled by the length of their
    part of the path.
    Pixels outside the picture count as 0 in model units, as in the authors' code. The completeness
    error is relative to the score of the most blurred picture.
    """

    steps: int = Field(100, ge=1, le=1000, description="Number of gradient passes")
    max_sigma: float = Field(
        50.0,
        ge=0.1,
        le=500,
        title="Largest blur",
        description="Sigma of the Gaussian blur at the start of the path, in input pixels",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.steps + 2, self.steps)

    def advice(self) -> str:
        return MORE_STEPS

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        width = self.max_sigma / self.steps
        order = coarse_to_fine(self.steps)[: run.samples(self.steps, "steps", FEWEST)]
        softest = blurred(run.x, self.max_sigma)
        floor = run.scores([(softest, run.owner)], len(softest), keep=(self.key, self.max_sigma))

        def path() -> Iterator[Chunk]:
            for step in order:
                yield blurred(run.x, (step + 0.5) * width), run.owner

        total, length = torch.zeros_like(run.x[:, 0]), run.x.new_zeros(len(run.x))
        done, whole = 0, list[Tensor]()  # found when it is first needed

        def values(done: int) -> Tensor:
            if done == self.steps:
                return total
            if not whole:
                whole.append(torch.stack([part(step)[1] for step in range(self.steps)]).sum(0))
            return total * (whole[0] / length)[:, None, None]

        def so_far(done: int) -> tuple[Tensor, dict[str, Tensor]]:
            return with_error(values(done), run, floor)

        def part(step: int) -> tuple[Tensor, Tensor]:
            sharp = blurred(run.x, step * width) if step else run.x
            change = sharp - blurred(run.x, (step + 1) * width)
            return change, change.abs().sum((1, 2, 3))

        stream = run.gradients(path(), expected=len(order) * len(run.x))
        for step, (_, grad) in zip(order, in_steps(stream, len(run.x)), strict=True):
            change, size = part(step)
            total, length, done = total + (change * grad).sum(1), length + size, done + 1
            if done >= FEWEST:
                run.paint(done, functools.partial(so_far, done))
        found, extras = so_far(done)
        run.extras |= extras
        return found, run.score()


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Pictures (B, C, H, W) under a Gaussian blur.

    The picture is padded with zeros, and the kernel is cut off at four standard deviations.

    Args:
        x: (B, C, H, W).
        sigma: standard deviation of the Gaussian, in pixels.
    """
    rows, columns = (_smoothing(size, sigma).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.T


def _smoothing(size: int, sigma: float) -> Tensor:
    """The matrix (size, size) that blurs a line of pixels."""
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel /= 2 * kernel.sum() - 1
    distance = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    return torch.where(distance <= radius, kernel[distance.clamp_max(radius)], 0)

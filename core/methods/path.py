"""Gradients gathered along the straight path from a baseline to the picture."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from core.methods.base import Method, register, relative_error
from core.methods.quadrature import integrate
from core.perturb.baselines import Baseline, Baselines, baseline_images
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


@register(
    "integrated_gradients",
    label="Integrated Gradients",
    family="path",
    about="Best for amounts that add up to the score; not for smooth maps or a single-pass answer.",
    paper="arXiv:1703.01365",
    needs=[Need.GRADIENT],
    properties=[
        Property.CLASS_SENSITIVE,
        Property.LOCALISES,
        Property.COMPLETE,
        Property.LINEAR_EXACT,
    ],
)
class IntegratedGradients(Method):
    """Mean gradient on the way from a baseline, times the way (Sundararajan et al., 2017).

    Integrated by Gauss-Legendre quadrature. Fixed steps do not always converge, so the completeness
    error comes with every map: ``abs(sum(map) - (f(x) - f(baseline))) / abs(f(x) - f(baseline))``.
    With a tolerance, steps gather where the gradient changes, until the error is settled below it
    or `steps` are used up; `converged` is then 1 or 0, and `passes` what it took.
    """

    steps: int = Field(
        50,
        ge=1,
        le=1000,
        description="Gradient passes per baseline; with a tolerance, the most of them",
    )
    baselines: Baselines = Field(
        ("black",),
        min_length=1,
        max_length=6,
        description="Where the path starts; several are averaged",
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Completeness error at which to stop; 0 takes all steps, at fixed places",
    )

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.tolerance and self.steps < 3:
            raise ValueError(
                "a tolerance needs at least 3 steps: both ends of the path, and between"
            )
        return self

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        passes = self.steps * len(self.baselines)
        return Cost(passes + len(self.baselines) + 1, passes)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        generator = run.generator()
        starts = torch.stack([baseline_images(name, run, generator) for name in self.baselines])
        values = self._adaptively(run, starts) if self.tolerance else self._evenly(run, starts)
        floor = mean_score(run, starts, keep=self.baselines)
        run.extras["completeness_error"] = completeness_error(values, run, floor)
        return values, run.score()

    def _adaptively(self, run: Run, starts: Tensor) -> Tensor:
        """The map (B, H, W), by as many steps as the tolerance takes."""
        rise = run.score() - mean_score(run, starts, keep=self.baselines)
        found = integrate(run, starts, self.tolerance * rise.abs(), self.steps)
        run.extras |= {"converged": found.converged, "passes": found.passes}
        return found.values

    def _evenly(self, run: Run, starts: Tensor) -> Tensor:
        """The map (B, H, W) by Gauss-Legendre quadrature."""
        nodes, weights = _gauss_legendre(self.steps)
        stem, every = run.stem(), starts.flatten(0, 1)  # (baselines * B, C, H, W)
        here, there = (every, run.x) if stem is None else (stem(every), stem(run.x))

        def path() -> Iterator[Chunk]:
            for start in here.split(len(there)):
                for node in nodes:
                    yield torch.lerp(start, there, node), run.owner

        count, seen = len(run.x), 0
        gathered = torch.zeros_like(here)
        for _, _, grad in run.gradients(path(), len(every) * self.steps, stem):
            row = torch.arange(seen, seen + len(grad))
            image = row // (count * self.steps) * count + row % count
            shares = torch.zeros(len(gathered), len(grad))
            shares[image, row - seen] = torch.tensor(weights)[row // count % self.steps]
            gathered += (shares.to(grad) @ grad.flatten(1)).view_as(gathered)
            seen += len(grad)
        if stem is not None:
            gathered = stem.input_gradient(gathered, every)
        return ((run.x - starts) * gathered.view_as(starts)).sum(2).mean(0)


@register(
    "idgi",
    label="IDGI",
    family="path",
    about="Best for exact sums in few steps; not for signs, of which each step has but one.",
    paper="arXiv:2303.14242",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.COMPLETE],
)
class IDGI(Method):
    """Each step's change of score, shared out by squared gradients (Yang et al., 2023).

    Important Direction Gradient Integration, on the straight path: only the part of a step that
    goes along the gradient changes the score. What the shares are of is the change itself, so the
    map sums to the score's rise however few the steps.
    """

    steps: int = Field(50, ge=1, le=1000, description="Gradient passes")
    baseline: Baseline = Field("black", description="Where the path starts")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.steps + 1, self.steps)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        start, count = baseline_images(self.baseline, run), len(run.x)

        def path() -> Iterator[Chunk]:
            for step in range(self.steps):
                yield torch.lerp(start, run.x, step / self.steps), run.owner

        scores: list[Tensor] = []
        shares, values = torch.zeros_like(run.x[:, 0]), torch.zeros_like(run.x[:, 0])
        for score, grad in in_steps(run.gradients(path(), self.steps * count), count):
            change = score - scores[-1] if scores else torch.zeros_like(score)
            values += change[:, None, None] * shares
            scores.append(score)
            shares = F.normalize(grad.flatten(1)).view_as(grad).square().sum(1)
        values += (run.score() - scores[-1])[:, None, None] * shares
        run.extras["completeness_error"] = completeness_error(values, run, scores[0])
        return values, run.score()


def in_steps(
    passes: Iterable[tuple[Tensor, Tensor, Tensor]], count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (count,) and gradients (count, C, H, W) step by step, however the passes were cut."""
    scores: list[Tensor] = []
    grads: list[Tensor] = []
    for _, score, grad in passes:
        scores += score.unbind()
        grads += grad.unbind()
        while len(grads) >= count:
            yield torch.stack(scores[:count]), torch.stack(grads[:count])
            scores, grads = scores[count:], grads[count:]


def mean_score(run: Run, starts: Tensor, keep: Hashable) -> Tensor:
    """(B,) the mean score of baselines (baselines, B, C, H, W), which `keep` and the seed name."""
    rows = ((start, run.owner) for start in starts)
    kept = "baselines", keep, run.seed
    return run.scores(rows, len(starts) * len(run.x), keep=kept).view(len(starts), -1).mean(0)


def completeness_error(values: Tensor, run: Run, floor: Tensor) -> Tensor:
    """How far the map's sum (B,) is from the score's rise over `floor` (B,), relatively."""
    rise = run.score() - floor
    return relative_error(values.sum((1, 2)), rise)


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()

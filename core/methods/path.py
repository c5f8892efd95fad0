"""Gradients integrated along the straight path from a baseline to the picture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from core.methods.base import MORE_STEPS, Method, register, relative_error
from core.methods.quadrature import INITIAL_NODES, MAX_BYTES, coarse_to_fine, integrate
from core.perturb.baselines import Baseline, Baselines, baseline_images
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property

FEWEST = 4
"""Steps before the first partial map of a path."""


@register(
    "integrated_gradients",
    label="Integrated Gradients",
    family="path",
    about="Best for contributions that sum to the score; not for smooth maps or one-pass answers.",
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
    """Mean gradient from baseline to input, times their difference (Sundararajan et al., 2017).

    The integral is computed by Gauss-Legendre quadrature. A fixed number of steps does not always
    converge, so every map comes with
    ``completeness_error = abs(sum(map) - (f(x) - f(baseline))) / abs(f(x) - f(baseline))``.
    With a tolerance, steps are added where the gradient changes until the error is below it or
    `steps` are used up; ``extras["converged"]`` is then 1 or 0, and ``extras["passes"]`` the number
    of steps taken.

    From black, the reference's usual start, dark pixels get nothing whatever they mean, and what is
    strongest matters little to the model (`docs/baselines.md`); so the path starts from blur.
    """

    steps: int = Field(
        50,
        ge=1,
        le=1000,
        description="Number of gradient passes per baseline; with a tolerance, the maximum number",
    )
    baselines: Baselines = Field(
        ("blur",),
        min_length=1,
        max_length=6,
        description="Where the path starts, 1 to 6 baselines; their maps are averaged",
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Completeness error below which to stop, as a share; 0 uses all steps at fixed "
        "positions",
    )

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.tolerance and self.steps < 3:
            raise ValueError(
                "a tolerance needs at least 3 steps: both ends of the path and one between them"
            )
        return self

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        passes = self.steps * len(self.baselines)
        return Cost(passes + len(self.baselines) + 1, passes)

    def advice(self) -> str:
        return "lower the tolerance, or allow more steps" if self.tolerance else MORE_STEPS

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        generator = run.generator()
        starts = torch.stack([baseline_images(name, run, generator) for name in self.baselines])
        floor = mean_score(run, starts, keep=self.baselines)
        explain = self._adaptive if self.tolerance else self._fixed
        values = explain(run, starts, floor)
        run.extras["completeness_error"] = completeness_error(values, run, floor)
        return values, run.score()

    def _adaptive(self, run: Run, starts: Tensor, floor: Tensor) -> Tensor:
        """The map (B, H, W), with as many steps as the tolerance needs."""
        taken = run.samples(self.steps, "steps", INITIAL_NODES)

        def paint(done: int, integral: Callable[[], Tensor]) -> None:
            run.paint(done, lambda: with_error(integral(), run, floor))

        rise = run.score() - floor
        found = integrate(run, starts, self.tolerance * rise.abs(), taken, paint)
        if found.converged.all():
            run.samples(taken, "steps")  # these were all that it takes
        run.extras |= {"converged": found.converged, "passes": found.passes}
        return found.values

    def _fixed(self, run: Run, starts: Tensor, floor: Tensor) -> Tensor:
        """The map (B, H, W), by Gauss-Legendre quadrature with a fixed number of steps.

        The steps are taken from coarse to fine. So those taken so far, with their weights scaled to
        a sum of 1, are a rule over the whole path.
        """
        nodes, weights = _gauss_legendre(self.steps)
        order = coarse_to_fine(self.steps)[: run.samples(self.steps, "steps", FEWEST)]
        stem, flat_starts = run.stem(), starts.flatten(0, 1)  # (baselines * B, C, H, W)
        begin, end = (flat_starts, run.x) if stem is None else (stem(flat_starts), stem(run.x))

        def path() -> Iterator[Chunk]:
            for step in order:
                for start in begin.split(len(end)):
                    yield torch.lerp(start, end, nodes[step]), run.owner

        def values(steps: int) -> Tensor:
            scale = 1 if steps == self.steps else 1 / sum(weights[step] for step in order[:steps])
            grad = total if stem is None else stem.input_gradient(total, flat_starts)
            return scale * ((run.x - starts) * grad.view_as(starts)).sum(2).mean(0)

        def so_far(steps: int) -> tuple[Tensor, dict[str, Tensor]]:
            return with_error(values(steps), run, floor)

        seen, paths = 0, len(flat_starts)
        total = torch.zeros_like(begin)
        for _, _, grad in run.gradients(path(), paths * len(order), stem):
            row = torch.arange(seen, seen + len(grad))
            shares = torch.zeros(paths, len(grad))
            shares[row % paths, row - seen] = torch.tensor(weights)[order][row // paths]
            total += (shares.to(grad) @ grad.flatten(1)).view_as(total)
            seen += len(grad)
            steps, rest = divmod(seen, paths)
            if steps >= FEWEST and not rest:
                run.paint(steps, functools.partial(so_far, steps))
        return values(len(order))


@register(
    "idgi",
    label="IDGI",
    family="path",
    about="Best for exact sums with few steps; not for signs, which are the same within a step.",
    paper="arXiv:2303.14242",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.COMPLETE],
)
class IDGI(Method):
    """The score change of each step, distributed by squared gradients (Yang et al., 2023).

    Important Direction Gradient Integration on the straight path: only the part of a step along the
    gradient changes the score. The actual change of the score is distributed, so the map sums to
    the difference of the scores for any number of steps.

    From a uniform baseline the first steps draw the picture's frame. On EfficientNet-Lite0 and
    three photographs the outer 8 pixels, 14 % of the picture, hold 45 % of the map from black, 17 %
    from zero, 7 % from the mean colour and 8 % from blur. A hierarchical transformer trained on
    photographs gave 98 % from the mean colour and 24 % from blur, so blur is the default.
    `docs/baselines.md` compares them.
    """

    steps: int = Field(50, ge=1, le=1000, description="Number of gradient passes")
    baseline: Baseline = Field("blur", description="Where the path starts")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.steps + 1, self.steps)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        starts, (height, width) = baseline_images(self.baseline, run), run.x.shape[-2:]
        at_once = max(1, MAX_BYTES // (4 * self.steps * height * width))
        images = torch.arange(len(run.x)).split(at_once)
        found = [self._explain(run, starts, some) for some in images]
        values, floor = (torch.cat(part) for part in zip(*found, strict=True))
        run.extras["completeness_error"] = completeness_error(values, run, floor)
        return values, run.score()

    def _explain(self, run: Run, starts: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The maps (b, H, W) of some of the images, and the scores (b,) of their baselines.

        The steps are taken from coarse to fine, and the map of those taken so far is that of a path
        with these steps alone.
        """
        start, end, owner = starts[images], run.x[images], run.owner[images]
        between = (1 + step for step in coarse_to_fine(self.steps - 2))
        order = list(dict.fromkeys([0, self.steps - 1, *between]))
        order = order[: run.samples(self.steps, "steps", FEWEST)]

        def path() -> Iterator[Chunk]:
            for step in order:
                yield torch.lerp(start, end, step / self.steps), owner

        nodes: dict[int, tuple[Tensor, Tensor]] = {}
        score = run.score()[images]
        passes = in_steps(run.gradients(path(), len(order) * len(images)), len(images))
        for step, (at, grad) in zip(order, passes, strict=True):
            nodes[step] = at, F.normalize(grad.flatten(1)).view_as(grad).square().sum(1)
            if len(nodes) >= FEWEST:
                run.paint(len(nodes), lambda: self._so_far(nodes, score))
        return self._distributed(nodes, score), nodes[0][0]

    def _so_far(
        self, nodes: dict[int, tuple[Tensor, Tensor]], score: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The map of the steps so far, and the share of the score's changes in longer ones."""
        steps = [*sorted(nodes), self.steps]
        scores = torch.stack([*(nodes[step][0] for step in steps[:-1]), score])
        changes = scores.diff(dim=0).abs()
        longer = torch.tensor([b - a > 1 for a, b in pairwise(steps)], device=changes.device)
        share = changes[longer].sum(0) / changes.sum(0)
        return self._distributed(nodes, score), {"unresolved_share": share}

    def _distributed(self, nodes: dict[int, tuple[Tensor, Tensor]], score: Tensor) -> Tensor:
        """(b, H, W) each change of the score, distributed by the squared gradients before it.

        Args:
            nodes: by step, the score (b,) and each pixel's share (b, H, W).
            score: (b,) at the end of the path.
        """
        taken = [nodes[step] for step in sorted(nodes)]
        values = torch.zeros_like(taken[0][1])
        scores = [*(at for at, _ in taken), score]
        for (here, after), (_, shares) in zip(pairwise(scores), taken, strict=True):
            values += (after - here)[:, None, None] * shares
        return values


def in_steps(
    passes: Iterable[tuple[Tensor, Tensor, Tensor]], count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Regroups passes into steps of `count` rows.

    Args:
        passes: owners, scores and gradients of rows, as `Run.gradients` yields them.
        count: rows per step.

    Yields:
        scores (count,) and gradients (count, C, H, W).
    """
    scores: list[Tensor] = []
    grads: list[Tensor] = []
    for _, score, grad in passes:
        scores += score.unbind()
        grads += grad.unbind()
        while len(grads) >= count:
            yield torch.stack(scores[:count]), torch.stack(grads[:count])
            scores, grads = scores[count:], grads[count:]


def mean_score(run: Run, starts: Tensor, keep: Hashable) -> Tensor:
    """The mean score over baselines.

    Args:
        run: the images and the target.
        starts: (baselines, B, C, H, W) the baseline images.
        keep: cache key of the baselines; the run's seed is added.

    Returns:
        (B,) in the unit of the score.
    """
    rows = ((start, run.owner) for start in starts)
    key = "baselines", keep, run.seed
    return run.scores(rows, len(starts) * len(run.x), keep=key).view(len(starts), -1).mean(0)


def with_error(values: Tensor, run: Run, floor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A map, and its completeness error among the extras; see `completeness_error`."""
    return values, {"completeness_error": completeness_error(values, run, floor)}


def completeness_error(values: Tensor, run: Run, floor: Tensor) -> Tensor:
    """How far the sum of a map is from the difference of the scores.

    Args:
        values: (B, H, W) the map.
        run: the images and the target.
        floor: (B,) the score of the baseline.

    Returns:
        (B,) ``abs(sum(values) - rise) / abs(rise)`` with ``rise = score - floor``; NaN where the
        scores are equal up to rounding errors.
    """
    rise = run.score() - floor
    return relative_error(run, values.sum((1, 2)), rise, run.score(), floor)


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()

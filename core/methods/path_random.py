"""Gradients at random points between the picture and several baselines."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import cycle, islice
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register
from core.methods.path import FEWEST, in_steps, with_error
from core.methods.quadrature import coarse_to_fine
from core.perturb.baselines import Baseline, Baselines, baseline_images
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


class Draw(NamedTuple):
    """One sample of a point on a path.

    Attributes:
        kind: the name of the baseline.
        start: (B, C, H, W) the baseline.
        end: (B, C, H, W) the end of the path: the images, perhaps with noise.
        position: the position on the path, from 0 to 1.
    """

    kind: Baseline
    start: Tensor
    end: Tensor
    position: float


@register(
    "expected_gradients",
    label="Expected Gradients",
    family="path",
    about="Best for results that do not depend on one baseline; not for sums exact to 1 %.",
    paper="arXiv:1906.10670",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class ExpectedGradients(Method):
    """Expectation of Integrated Gradients over baselines (Erion et al., 2021); also GradientSHAP.

    The baselines are used in turn. The path of each is divided into equal parts with one random
    point in each part; this is unbiased and less noisy than independent points. The parts are
    visited from coarse to fine, so that the first samples are spread over all of it. The
    completeness error is relative to the mean score of the baselines.
    """

    samples: int = Field(
        50, ge=1, le=1000, description="Number of gradient passes, each at one random point"
    )
    baselines: Baselines = Field(
        ("blur", "random"),
        min_length=1,
        max_length=6,
        description="Where the paths start, 1 to 6 baselines used in turn; random is drawn again "
        "each time",
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Standard deviation of Gaussian noise added to the picture, as a fraction of "
        "its value range (maximum - minimum)",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.samples + len(self._scored_kinds()) + 1, self.samples)

    def advice(self) -> str:
        return "take more samples"

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        floor = self._mean_baseline_score(run)
        taken = run.samples(self.samples, "samples", FEWEST)

        def path() -> Iterator[Chunk]:
            for draw in islice(self._draws(run), taken):
                yield torch.lerp(draw.start, draw.end, draw.position), run.owner

        def so_far(done: int) -> tuple[Tensor, dict[str, Tensor]]:
            return with_error(total / done, run, floor)

        total = torch.zeros_like(run.x[:, 0])
        stream = run.gradients(path(), expected=taken * len(run.x))
        steps = in_steps(stream, len(run.x))
        for done, (draw, (_, grad)) in enumerate(zip(self._draws(run), steps, strict=False), 1):
            total += ((draw.end - draw.start) * grad).sum(1)
            if done >= FEWEST:
                run.paint(done, functools.partial(so_far, done))
        values, extras = so_far(taken)
        run.extras |= extras
        return values, run.score()

    def _draws(self, run: Run) -> Iterator[Draw]:
        """The samples; every call yields the same ones."""
        generator, x = run.generator(), run.x
        spread = self.noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
        fixed = {kind: baseline_images(kind, run) for kind in self.baselines if kind != "random"}
        for sample, kind in enumerate(self._kinds()):
            turn, index = divmod(sample, len(self.baselines))
            parts = len(range(index, self.samples, len(self.baselines)))
            part = coarse_to_fine(parts)[turn]
            position = (part + float(torch.rand((), generator=generator))) / parts
            start = fixed[kind] if kind in fixed else baseline_images(kind, run, generator)
            end = x
            if self.noise:
                end = x + spread * torch.randn(x.shape[1:], generator=generator).to(x)
            yield Draw(kind, start, end, position)

    def _kinds(self) -> list[Baseline]:
        """The name of the baseline of each sample."""
        return list(islice(cycle(self.baselines), self.samples))

    def _scored_kinds(self) -> list[Baseline]:
        """The baselines to be scored: each name once, but every draw of the random baseline."""
        kinds = self._kinds()
        return [k for i, k in enumerate(kinds) if k == "random" or k not in kinds[:i]]

    def _mean_baseline_score(self, run: Run) -> Tensor:
        """(B,) the mean score of the baselines over all samples."""

        def starts() -> Iterator[Chunk]:
            seen: set[Baseline] = set()
            for draw in self._draws(run):
                if draw.kind == "random" or draw.kind not in seen:
                    yield draw.start, run.owner
                seen.add(draw.kind)

        kinds, count = self._kinds(), len(run.x)
        share = [1 if k == "random" else kinds.count(k) for k in self._scored_kinds()]
        scores = run.scores(starts(), len(share) * count, keep=(self, run.seed)).view(-1, count)
        return torch.tensor(share).to(scores) @ scores / self.samples

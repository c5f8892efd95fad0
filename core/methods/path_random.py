"""Gradients at random points between the picture and several baselines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register
from core.methods.path import completeness_error, in_steps
from core.perturb.baselines import Baseline, Baselines, baseline_images
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


class Draw(NamedTuple):
    """One sample: the baseline drawn and its name, the end of the way, how far along it."""

    kind: Baseline
    start: Tensor
    end: Tensor
    along: float


@register(
    "expected_gradients",
    label="Expected Gradients",
    family="path",
    about="Best for not depending on any one baseline; not for sums exact to a per cent.",
    paper="arXiv:1906.10670",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class ExpectedGradients(Method):
    """Integrated Gradients in expectation over baselines (Erion et al., 2021), or GradientSHAP.

    The baselines take turns. Each one's points are random within equal parts of the way, one in
    each: as unbiased as points drawn anywhere, and less noisy. The completeness error is against
    the mean score of the baselines drawn.
    """

    samples: int = Field(50, ge=1, le=1000, description="Gradient passes, at one random point each")
    baselines: Baselines = Field(
        ("black", "white", "blur", "random"),
        min_length=1,
        max_length=6,
        description="Where the ways start, in turn; random is drawn anew each time",
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Noise added to the picture: standard deviation, as a fraction of its range",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.samples + len(self._starts()) + 1, self.samples)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        def path() -> Iterator[Chunk]:
            for draw in self._draws(run):
                yield torch.lerp(draw.start, draw.end, draw.along), run.owner

        values = torch.zeros_like(run.x[:, 0])
        stream = run.gradients(path(), expected=self.samples * len(run.x))
        steps = in_steps(stream, len(run.x))
        for draw, (_, grad) in zip(self._draws(run), steps, strict=True):
            values += ((draw.end - draw.start) * grad).sum(1) / self.samples
        run.extras["completeness_error"] = completeness_error(values, run, self._floor(run))
        return values, run.score()

    def _draws(self, run: Run) -> Iterator[Draw]:
        """The samples, the same ones each time it is asked."""
        generator, x = run.generator(), run.x
        spread = self.noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
        fixed = {kind: baseline_images(kind, run) for kind in self.baselines if kind != "random"}
        for sample, kind in enumerate(self._kinds()):
            turn, place = divmod(sample, len(self.baselines))
            parts = len(range(place, self.samples, len(self.baselines)))
            along = (turn + float(torch.rand((), generator=generator))) / parts
            start = fixed[kind] if kind in fixed else baseline_images(kind, run, generator)
            end = x
            if self.noise:
                end = x + spread * torch.randn(x.shape[1:], generator=generator).to(x)
            yield Draw(kind, start, end, along)

    def _kinds(self) -> list[Baseline]:
        """The baseline of each sample."""
        return list(islice(cycle(self.baselines), self.samples))

    def _starts(self) -> list[Baseline]:
        """The baselines that have to be scored: a random one is never the same again."""
        kinds = self._kinds()
        return [k for i, k in enumerate(kinds) if k == "random" or k not in kinds[:i]]

    def _floor(self, run: Run) -> Tensor:
        """(B,) the mean score of the baselines drawn."""

        def starts() -> Iterator[Chunk]:
            seen: set[Baseline] = set()
            for draw in self._draws(run):
                if draw.kind == "random" or draw.kind not in seen:
                    yield draw.start, run.owner
                seen.add(draw.kind)

        kinds, count = self._kinds(), len(run.x)
        share = [1 if k == "random" else kinds.count(k) for k in self._starts()]
        scores = run.scores(starts(), len(share) * count, keep=(self, run.seed)).view(-1, count)
        return torch.tensor(share).to(scores) @ scores / self.samples

"""Gradients gathered along a path from a baseline to the picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from core.engine import Piece, Run
from core.methods.base import Method, register
from core.methods.baselines import Baselines, baseline
from core.types import Law, Need


@register(
    "integrated_gradients",
    label="Integrated Gradients",
    family="path",
    about="Best for amounts that add up to the score; not for smooth maps or a single-pass answer.",
    paper="arXiv:1703.01365",
    needs=[Need.GRADIENT],
    laws=[Law.CLASS_SENSITIVE, Law.COMPLETE, Law.LINEAR_EXACT],
)
class IntegratedGradients(Method):
    """Mean gradient on the way from a baseline, times the way (Sundararajan et al., 2017).

    Integrated by Gauss-Legendre quadrature. Fixed steps do not always converge, so the completeness
    error comes with every map: ``abs(sum(map) - (f(x) - f(baseline))) / abs(f(x) - f(baseline))``.
    """

    steps: int = Field(50, ge=1, le=1000, description="Gradient passes per baseline")
    baselines: Baselines = Field(
        ("black",),
        min_length=1,
        max_length=6,
        description="Where the path starts; several are averaged",
    )

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        generator = run.generator()
        starts = torch.stack([baseline(name, run, generator) for name in self.baselines])
        nodes, weights = _gauss_legendre(self.steps)

        def path() -> Iterator[Piece]:
            for start in starts:
                for node in nodes:
                    yield start + node * (run.x - start), run.owner

        count, seen = len(run.x), 0
        gathered = torch.zeros_like(starts).flatten(0, 1)  # (baselines * B, C, H, W)
        for _, _, grad in run.gradients(path(), expected=count * len(starts) * self.steps):
            row = torch.arange(seen, seen + len(grad))
            share = torch.tensor(weights)[row // count % self.steps].to(grad)
            image = row // (count * self.steps) * count + row % count
            gathered.index_add_(0, image.to(grad.device), share[:, None, None, None] * grad)
            seen += len(grad)
        values = ((run.x - starts) * gathered.view_as(starts)).sum(2).mean(0)
        run.extras["completeness_error"] = _completeness_error(values, run, starts)
        return values, run.score()


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def _completeness_error(values: Tensor, run: Run, starts: Tensor) -> Tensor:
    """How far the map's sum (B,) is from the score's rise over the mean baseline, relatively."""
    rows = ((start, run.owner) for start in starts)
    floor = run.scores(rows, expected=len(starts) * len(run.x)).view(len(starts), -1).mean(0)
    rise = run.score() - floor
    return (values.sum((1, 2)) - rise).abs() / rise.abs().clamp_min(torch.finfo(rise.dtype).tiny)

"""Gradients gathered along a path that avoids what the model reacts to most."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register
from core.methods.path import completeness_error
from core.perturb.baselines import Baseline, baseline_images
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


@register(
    "guided_ig",
    label="Guided IG",
    family="path",
    about="Best for less noise than plain Integrated Gradients; not for an answer in haste.",
    paper="arXiv:2106.09788",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.LINEAR_EXACT],
)
class GuidedIG(Method):
    """Integrated Gradients on a path found on the way (Kapishnikov et al., 2021).

    Each step moves the values that matter least at that point, a `fraction` of them at a time,
    until the L1 distance left to the picture has shrunk by one step's share. None may be further
    from the straight line than `max_dist`, so at 0 this is Integrated Gradients (left Riemann sum).
    """

    steps: int = Field(200, ge=1, le=1000, description="Gradient passes, one after another")
    fraction: float = Field(
        0.25, ge=0.01, le=1, description="Share of values moved at a time, smallest gradients first"
    )
    max_dist: float = Field(
        0.02,
        ge=0,
        le=1,
        title="Leeway",
        description="How far a value may be ahead of the straight line or behind, of its whole way",
    )
    baseline: Baseline = Field("black", description="Where the path starts")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.steps + 1, self.steps)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        starts = baseline_images(self.baseline, run)
        parts = [self._explain(run, starts[i : i + 1], i) for i in range(len(starts))]
        values, floor = (torch.cat(part) for part in zip(*parts, strict=True))
        run.extras["completeness_error"] = completeness_error(values, run, floor)
        return values, run.score()

    def _explain(self, run: Run, start: Tensor, image: int) -> tuple[Tensor, Tensor]:
        """The map (1, H, W) of one picture, and the score (1,) at the start of its path.

        Pictures share no pass: rounding depends on the company a row is in, and which values move
        on rounding.
        """
        way, owner = run.x[image : image + 1] - start, run.owner[image : image + 1]
        gone = torch.zeros_like(way)  # the share of its way that each value has behind it
        values = torch.zeros_like(way[:, 0])
        scores: list[Tensor] = []
        for step in range(self.steps):
            rows = [(start + gone * way, owner)]
            ((_, score, grad),) = run.gradients(rows, expected=1)
            after = self._advance(gone, way.abs(), grad.abs(), step)
            values += ((after - gone) * way * grad).sum(1)
            gone = after
            scores.append(score)
        return values, scores[0]

    def _advance(self, gone: Tensor, size: Tensor, reaction: Tensor, step: int) -> Tensor:
        """The shares (1, C, H, W) of one picture after a step, from those before it."""
        along = (step + 1) / self.steps
        most = min(1.0, along + self.max_dist)
        gone, goal = gone.clamp_min(max(0.0, along - self.max_dist)), (1 - along) * size.sum()
        rank = 1 + int(self.fraction * (gone.numel() - 1))
        while (excess := ((1 - gone) * size).sum() - goal) > ROUNDING * goal:
            reacts = reaction.where((gone < most) & (size > 0), torch.inf)
            moved = (reacts <= reacts.flatten().kthvalue(rank).values) & reacts.isfinite()
            reach = ((most - gone) * size)[moved].sum()
            if reach > excess:
                return gone.where(~moved, gone + excess / reach * (most - gone))
            if not moved.any():
                break
            gone = gone.where(~moved, most)
        return gone


ROUNDING = 1e-6
"""How far from its goal, relatively, a step may end for want of digits."""

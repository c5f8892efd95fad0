"""Guided IG: gradients integrated along a path that changes insensitive pixels first."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import MORE_STEPS, Method, register
from core.methods.path import completeness_error
from core.perturb.baselines import Baseline, baseline_images
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


@register(
    "guided_ig",
    label="Guided IG",
    family="path",
    about="Best for less noise than Integrated Gradients; not for quick answers, it is slow.",
    paper="arXiv:2106.09788",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.LINEAR_EXACT],
)
class GuidedIG(Method):
    """Integrated Gradients along an adaptive path (Kapishnikov et al., 2021).

    Each step changes the `fraction` of pixel values with the smallest gradients, until the L1
    distance to the picture has decreased by the share of one step. No value may deviate from the
    straight path by more than `max_dist`; with 0 this is Integrated Gradients (left Riemann sum).
    """

    steps: int = Field(
        200, ge=1, le=1000, description="Number of gradient passes, which run one after another"
    )
    fraction: float = Field(
        0.25,
        ge=0.01,
        le=1,
        description="Share of pixel values changed at a time, those with the smallest gradients",
    )
    max_dist: float = Field(
        0.02,
        ge=0,
        le=1,
        title="Maximum deviation from the straight path",
        description="How far a pixel value may deviate from the straight path, as a share of its "
        "distance from the baseline; 0 is the straight path",
    )
    baseline: Baseline = Field("blur", description="Where the path starts")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.steps + 1, self.steps)

    def advice(self) -> str:
        return MORE_STEPS

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        starts = baseline_images(self.baseline, run)
        parts = [self._explain(run, starts[i : i + 1], i) for i in range(len(starts))]
        values, floor = (torch.cat(part) for part in zip(*parts, strict=True))
        run.extras["completeness_error"] = completeness_error(values, run, floor)
        return values, run.score()

    def _explain(self, run: Run, start: Tensor, image: int) -> tuple[Tensor, Tensor]:
        """The map (1, H, W) of one picture, and the score (1,) of its baseline.

        Each picture has its own passes. In a shared batch, rounding would differ, and the order in
        which values are changed depends on rounding.
        """
        difference, owner = run.x[image : image + 1] - start, run.owner[image : image + 1]
        done = torch.zeros_like(difference)  # the completed share of each value's path, 0 to 1
        values = torch.zeros_like(difference[:, 0])
        scores: list[Tensor] = []
        for step in range(self.steps):
            rows = [(start + done * difference, owner)]
            ((_, score, grad),) = run.gradients(rows, expected=1)
            advanced = self._advance(done, difference.abs(), grad.abs(), step)
            values += ((advanced - done) * difference * grad).sum(1)
            done = advanced
            scores.append(score)
        return values, scores[0]

    def _advance(self, done: Tensor, size: Tensor, sensitivity: Tensor, step: int) -> Tensor:
        """The completed shares (1, C, H, W) of the path after a step.

        Args:
            done: the shares before the step, from 0 to 1.
            size: absolute difference between picture and baseline.
            sensitivity: absolute gradient.
            step: index of the step.
        """
        straight = (step + 1) / self.steps
        upper = min(1.0, straight + self.max_dist)
        done, goal = done.clamp_min(max(0.0, straight - self.max_dist)), (1 - straight) * size.sum()
        rank = 1 + int(self.fraction * (done.numel() - 1))
        while (excess := ((1 - done) * size).sum() - goal) > ROUNDING * goal:
            order = sensitivity.where((done < upper) & (size > 0), torch.inf)
            moved = (order <= order.flatten().kthvalue(rank).values) & order.isfinite()
            reach = ((upper - done) * size)[moved].sum()
            if reach > excess:
                return done.where(~moved, done + excess / reach * (upper - done))
            if not moved.any():
                break
            done = done.where(~moved, upper)
        return done


ROUNDING = 1e-6
"""Relative error of a step's goal that counts as rounding."""

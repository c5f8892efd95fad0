"""Whether a tiny change of the picture changes the map little."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from core.metrics.base import Category, Metric, MetricContext, MetricInput, check, register
from core.metrics.verdict_rule import VerdictRule, assess_by_limits
from core.runtime.noise import CONSTANT, is_constant, reasons
from core.runtime.run import Run
from core.types import Score


@register(
    "max_sensitivity",
    label="Max-sensitivity",
    about="Is the map stable under tiny changes?",
    category=Category.ROBUSTNESS,
    also_answers=["sensitivity", "stability"],
    higher_is_better=False,
    range=(0.0, float("inf")),
    caveat="A map that ignores the picture scores best.",
    paper="arXiv:1901.09392",
    needs=[MetricInput.METHOD],
    verdict=VerdictRule(
        priority=20,
        assess=assess_by_limits(
            0.5,
            1.0,
            (
                "Tiny changes of the picture hardly change it.",
                "Tiny changes of the picture change it a lot.",
                "Tiny changes of the picture turn it into a different map.",
            ),
        ),
    ),
)
class MaxSensitivity(Metric):
    """The largest relative change of the map over slightly changed pictures (Yeh et al., 2019).

    Each value of the picture is changed by a random amount of at most `radius`; the target stays
    the same. The change of the map is the Euclidean norm of the difference divided by that of the
    map. For a map of zeros it is 0, or infinite if a changed picture gives anything else. That a
    constant map stays the same is no merit, and `cannot_tell` says so.
    """

    samples: int = Field(10, ge=1, le=500, description="Number of changed pictures")
    radius: float = Field(
        0.05,
        ge=0.001,
        le=1,
        description="Largest change of a value, as a share of the range from black to white",
    )

    def method_calls(self) -> int:
        return self.samples

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        assert context.reattribute is not None
        generator = run.generator()
        black, white = (run.subject.pixel(level).to(run.x) for level in (0.0, 1.0))
        target, sizes = run.target, values.flatten(1).norm(dim=1)
        worst = torch.zeros(len(values))
        for _ in range(self.samples):
            drawn = 2 * torch.rand(run.x.shape[1:], generator=generator) - 1
            rows = run.x + self.radius * drawn.to(run.x) * (white - black)
            moved = (context.reattribute(run.derive(x=rows, target=target)) - values).flatten(1)
            worst = torch.maximum(worst, moved.norm(dim=1) / sizes)
        change = torch.where(worst.isnan(), 0, worst)
        return self.score(run, change, cannot_tell=reasons(is_constant(values), CONSTANT))

"""Whether nearly the same picture gets nearly the same map."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from core.metrics.base import Metric, MetricContext, MetricInput, check, register
from core.runtime.run import Run
from core.types import Score


@register(
    "max_sensitivity",
    label="Max-sensitivity",
    about="How much can the map change when the picture hardly does?",
    higher_is_better=False,
    range=(0.0, float("inf")),
    caveat="The most stable map is one that ignores the picture.",
    paper="arXiv:1901.09392",
    needs=[MetricInput.METHOD],
)
class MaxSensitivity(Metric):
    """The largest relative change of the map within a ball (Yeh et al., 2019).

    The change is the Euclidean length of the difference, over that of the map; the target stays
    that of the picture. A map of zeros changes by nothing, or by infinitely much.
    """

    samples: int = Field(10, ge=1, le=500, description="Pictures drawn from the ball")
    radius: float = Field(
        0.05,
        ge=0.001,
        le=1,
        description="The most a value changes, as a share of black to white",
    )

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
            change = (context.reattribute(run.derive(x=rows, target=target)) - values).flatten(1)
            worst = torch.maximum(worst, change.norm(dim=1) / sizes)
        return self.score(run, torch.where(worst.isnan(), 0, worst))

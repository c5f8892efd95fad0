"""Whether a map adds up to what it promises to explain."""

from __future__ import annotations

from torch import Tensor

from core.errors import NotApplicableError
from core.metrics.base import Metric, MetricContext, MetricInput, check, register
from core.runtime.run import Run
from core.types import Score

ERRORS = ("completeness_error", "efficiency_error")
"""Extras in which methods report it."""


@register(
    "completeness_error",
    label="Completeness error",
    about="By how much does the map's sum miss the score's rise that it explains?",
    higher_is_better=False,
    range=(0.0, float("inf")),
    paper="arXiv:1703.01365",
    needs=[MetricInput.METHOD],
)
class CompletenessError(Metric):
    """abs(sum of the map - (f(x) - f(baseline))) / abs(f(x) - f(baseline)), as the method reports.

    Methods that promise no sum have none.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        extras = context.attribution.extras if context.attribution is not None else {}
        found = next((extras[name] for name in ERRORS if name in extras), None)
        if found is None:
            raise NotApplicableError("the method promises no sum that its map could miss")
        return self.score(run, found.float())

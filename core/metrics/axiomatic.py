"""Whether a map's values add up to the score that they explain."""

from __future__ import annotations

from torch import Tensor

from core.errors import NotApplicableError
from core.metrics.base import Category, Metric, MetricContext, MetricInput, check, register
from core.metrics.verdict_rule import VerdictRule, assess_by_limits
from core.runtime.noise import reasons
from core.runtime.run import Run
from core.types import Score

ERRORS = ("completeness_error", "efficiency_error")
"""The extras of an attribution that hold it, by method."""


@register(
    "completeness_error",
    label="Completeness error",
    about="Do the values add up to the score?",
    category=Category.AXIOMATIC,
    also_answers=["faithfulness"],
    higher_is_better=False,
    range=(0.0, float("inf")),
    paper="arXiv:1703.01365",
    needs=[MetricInput.METHOD],
    verdict=VerdictRule(
        priority=30,
        assess=assess_by_limits(
            0.05,
            0.2,
            (
                "Its values add up to the change in the score.",
                "Its values add up only roughly; use more steps.",
                "Its values do not add up; use more steps, or trust only their order.",
            ),
        ),
    ),
)
class CompletenessError(Metric):
    """abs(sum of the map - (f(x) - f(baseline))) / abs(f(x) - f(baseline)), as the method reports.

    Only for methods whose values are meant to add up to the change in the score. Where the score
    does not change, beyond rounding errors, it is NaN, and `cannot_tell` says so.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        extras = context.attribution.extras if context.attribution is not None else {}
        found = next((extras[name] for name in ERRORS if name in extras), None)
        if found is None:
            raise NotApplicableError("this method's values need not add up to the score")
        reason = "the score is the same without the picture, up to rounding errors"
        return self.score(run, found.float(), cannot_tell=reasons(found.isnan(), reason))

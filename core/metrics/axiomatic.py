"""Whether a map's values add up to the score that they explain."""

from __future__ import annotations

from torch import Tensor

from core.errors import NotApplicableError
from core.methods.base import METHODS
from core.metrics.base import Category, Metric, MetricContext, MetricInput, check, register
from core.metrics.verdict_rule import VerdictRule, assess_by_limits
from core.runtime.noise import reasons
from core.runtime.run import Run
from core.types import Score

ERRORS = ("completeness_error", "efficiency_error")
"""The extras of an attribution that hold it, by method."""
ADDS_UP = 0.05
"""A map with a smaller error accounts for the score."""


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
            ADDS_UP,
            0.2,
            (
                "Its values account for the score.",
                "Its values account for the score only roughly.",
                "Its values do not add up to what they should explain.",
            ),
        ),
    ),
)
class CompletenessError(Metric):
    """abs(sum of the map - what it should be) / abs(what it should be), as the method reports.

    Only for methods whose values are meant to add up: to f(x) - f(baseline), or to f(x) where the
    method has no baseline, such as LRP. Where that is zero up to rounding errors, it is NaN, and
    `cannot_tell` says so. `advice` says what the method offers against an error of 5 % or more.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        given = context.attribution
        extras = given.extras if given is not None else {}
        found = next((extras[name] for name in ERRORS if name in extras), None)
        if given is None or found is None:
            raise NotApplicableError("this method's values need not add up to the score")
        reason = "the values should add up to 0, up to rounding errors"
        return self.score(
            run,
            found.float(),
            cannot_tell=reasons(found.isnan(), reason),
            advice=reasons(found >= ADDS_UP, METHODS.make(given.method, given.params).advice()),
        )

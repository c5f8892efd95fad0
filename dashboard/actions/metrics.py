"""Does a map deserve trust, next to maps that know nothing?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from core import METHODS, METRICS, Attribution
from core.errors import CancelledError, NotApplicableError, TimmscopeError
from core.inputs.batch import OnProgress
from core.metrics.base import Metric, MetricInput
from core.types import Score
from core.views.charts import Curve, curves_panel
from core.views.panels import Panel, empty_panel, error_panel
from dashboard.actions.evidence import UNKNOWN, Evidence, ground_truth_of
from dashboard.actions.question import Asked, Choices, Settings, answers, ask, trouble
from dashboard.controls import params_of
from dashboard.state import Question, Service

logger = logging.getLogger(__name__)

METHOD_ONLY = ["Method"]
MOST_RANDOM_MAPS = 200
"""The most random maps that the page sets a map among."""


def metric_choices() -> Choices:
    """Every metric; one with a caveat is marked with an asterisk."""
    return [(cls.label + (" *" if cls.caveat else ""), key) for key, cls in METRICS.items()]


@dataclass(frozen=True)
class Measured:
    """Curves and scores.

    Attributes:
        panels: a chart for each metric.
        table: method, then a column for each metric.
        headers: of the table.
        curves: by method and metric, those that can be looked into.
        question: the one answered, with the class explained; None if there is no answer.
    """

    panels: list[Panel]
    table: list[list[Any]]
    headers: list[str]
    curves: list[tuple[str, str]] = field(default_factory=list)
    question: Question | None = None


def measure(
    service: Service,
    question: Question,
    methods: Sequence[str],
    metrics: Sequence[str],
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
    evidence: Evidence = UNKNOWN,
    random_maps: int = 0,
) -> Measured:
    """Metrics of the chosen methods, beside the controls.

    Args:
        service: answers.
        question: what the page asks.
        methods: keys.
        metrics: keys.
        settings: parameters a person set.
        layer: where CAM methods look.
        on_progress: told of rows done and expected.
        evidence: where it is, for metrics that need to know.
        random_maps: how many random maps to set each map among; 0 for none.
    """
    if not methods or not metrics:
        panel = empty_panel("Choose at least one method and one metric.")
        return Measured([panel], [], METHOD_ONLY)
    try:
        asked = ask(service, question, on_progress)
        ground_truth = ground_truth_of(asked, evidence)
        answer = answers(asked, methods, settings, layer, on_progress)
        asking = _Asking(
            asked, answer.results, ground_truth, min(random_maps, MOST_RANDOM_MAPS), on_progress
        )
        scores = {key: asking.scores(_made(key, settings)) for key in metrics}
        standings = {key: asking.standings(_made(key, settings)) for key in metrics}
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Measured([trouble("Not measured", question, error)], [], METHOD_ONLY)
    panels = [_curves(key, found) for key, found in scores.items() if _has_curve(found)]
    panels += [error_panel(METHODS[key].label, why) for key, why in answer.errors.items()]
    panels += [error_panel(METRICS[key].label, why) for key, why in asking.reasons.items()]
    keys = dict.fromkeys(key for found in scores.values() for key in found)
    table = [[METHODS[key].label, *(_cell(scores[m].get(key)) for m in metrics)] for key in keys]
    headers = [_with_arrow(key) for key in metrics]
    for metric in [m for m in metrics if standings[m]]:
        headers.append(f"{METRICS[metric].label}: percentile among {asking.random_maps}")
        for key, row in zip(keys, table, strict=True):
            row.append(standings[metric].get(key))
    curves = [(key, m) for m in metrics for key in scores[m] if key in answer.results]
    return Measured(panels, table, METHOD_ONLY + headers, curves, asked.question)


def _made(metric: str, settings: Settings) -> Metric:
    return METRICS.make(metric, params_of(settings, metric, METRICS[metric]))


@dataclass
class _Asking:
    """Puts metrics to maps.

    Attributes:
        asked: the question.
        results: the maps, by method.
        ground_truth: where the evidence is, if that is known.
        random_maps: how many random maps to set each among.
        on_progress: told of rows done and expected.
        reasons: by metric, why it says nothing of any method.
    """

    asked: Asked
    results: Mapping[str, Attribution]
    ground_truth: Tensor | None
    random_maps: int
    on_progress: OnProgress | None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def question(self) -> dict[str, Any]:
        return {
            "target": self.asked.target,
            "ground_truth": self.ground_truth,
            "on_progress": self.on_progress,
        }

    def scores(self, metric: Metric) -> dict[str, Score]:
        """The metric of each result and then of each control, as far as it applies to them."""
        asker, batch = self.asked.explainer, self.asked.batch
        own = {}
        for key, found in self.results.items():
            try:
                own[key] = asker.measure(batch, found, metric, **self.question)
            except CancelledError:
                raise
            except TimmscopeError as reason:  # its cell stays empty
                logger.info("%s of %s failed", metric.key, key, exc_info=True)
                self.reasons[metric.key] = str(reason).partition("\n")[0]
        if own:
            self.reasons.pop(metric.key, None)
            with suppress(NotApplicableError):
                own |= asker.controls(batch, metric, **self.question)
        return own

    def standings(self, metric: Metric) -> dict[str, float]:
        """The percentile of each result among random maps, if that is asked and applies."""
        found: dict[str, float] = {}
        if self.random_maps < 1 or MetricInput.METHOD in metric.needs or metric.key in self.reasons:
            return found
        for key, answer in self.results.items():
            percentile_rank = self.asked.explainer.percentile_rank(
                self.asked.batch, answer, metric, maps=self.random_maps, **self.question
            )
            found[key] = float(percentile_rank.percentile[0])
        return found


def _cell(score: Score | None) -> float | str | None:
    """The value, with its 95% interval where the metric gives one."""
    if score is None:
        return None
    value = float(score.value[0])
    if score.low is None or score.high is None:
        return round(value, 4)
    return f"{value:.3f} ({float(score.low[0]):.3f} to {float(score.high[0]):.3f})"


def _has_curve(scores: Mapping[str, Score]) -> bool:
    return bool(scores) and all(score.curve_x is not None for score in scores.values())


def _curves(metric: str, scores: Mapping[str, Score]) -> Panel:
    cls = METRICS[metric]
    better = "higher" if cls.higher_is_better else "lower"
    return curves_panel(
        [_curve(key, score) for key, score in scores.items()],
        *cls.axes,
        title=_with_arrow(metric),
        caption=" ".join(
            filter(None, [cls.about, f"Area under the curve; {better} is better.", cls.caveat])
        ),
    )


def _curve(key: str, score: Score) -> Curve:
    assert score.curve_x is not None
    assert score.curve_y is not None
    return {
        "name": METHODS[key].label,
        "x": score.curve_x.tolist(),
        "y": score.curve_y[0].tolist(),
        "style": "dash" if METHODS[key].is_control else "solid",
        "auc": float(score.value[0]),
    }


def _with_arrow(metric: str) -> str:
    cls = METRICS[metric]
    return f"{cls.label} {'↑' if cls.higher_is_better else '↓'}{' *' if cls.caveat else ''}"

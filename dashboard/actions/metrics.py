"""Scores of maps, beside those of controls that do not depend on the model."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from core import METHODS, METRICS
from core.errors import CancelledError, NotApplicableError, TimmscopeError
from core.inputs.batch import OnProgress
from core.methods.configuration import label_of
from core.metrics.base import Category, Metric, MetricInput
from core.types import Comparison, Score
from core.views.charts import Curve, curves_panel
from core.views.panels import Panel, empty_panel
from dashboard.actions.curve_steps import CURVES
from dashboard.actions.evidence import UNKNOWN, Evidence, ground_truth_of
from dashboard.actions.question import (
    Answers,
    Question,
    ResolvedQuestion,
    Settings,
    compare_methods,
    params_of,
    resolve,
)
from dashboard.actions.reasons import Chosen, Failure, failures_of, reason_cards
from dashboard.state import Service

logger = logging.getLogger(__name__)

LARGE = 440
"""Height in CSS pixels of a chart whose curves can be inspected."""
MAX_RANDOM_MAPS = 200
"""The largest number of random maps that the page compares a map with."""


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """Metrics of several methods' maps.

    Attributes:
        question: picture, model and class.
        methods: the methods' keys.
        metrics: the metrics' keys.
        settings: parameters a person set.
        layer: the layer of CAM methods; empty for the model's own choice.
        evidence: where it is, for metrics that need to know.
        random_maps: how many random maps to rank each map against; 0 for none.
    """

    question: Question
    methods: Sequence[str]
    metrics: Sequence[str]
    settings: Settings
    layer: str | None
    evidence: Evidence = UNKNOWN
    random_maps: int | None = 0

    @property
    def chosen(self) -> Chosen:
        """The methods, as they are listed."""
        return Chosen("metric", "method", self.methods, "metric-run")


@dataclass(frozen=True)
class MeasureResult:
    """Curves and scores.

    Attributes:
        panels: a chart for each metric that follows a curve, those that can be inspected first and
            large, then the reasons for missing scores.
        inspected: how many charts can be inspected.
        table: a row for each method, controls last.
        headers: of the table.
        curves: pairs of method and metric whose curves can be inspected.
        answers: which question it answers.
    """

    panels: list[Panel]
    table: list[list[Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=lambda: ["Method"])
    curves: list[tuple[str, str]] = field(default_factory=list)
    inspected: int = 0
    answers: Answers = field(default_factory=Answers)


def metric_groups() -> list[dict[str, Any]]:
    """Every metric under the question that its category answers, for `GroupedChoice`.

    One that is no reliable test is marked with an asterisk, one that must know where the evidence
    is says so.
    """
    groups: dict[Category, list[dict[str, str]]] = {}
    for key, cls in METRICS.items():
        known = MetricInput.GROUND_TRUTH in cls.needs
        about = f"{cls.about}{' Needs the evidence.' if known else ''}"
        option = {"key": key, "label": cls.label + (" *" if cls.caveat else ""), "about": about}
        groups.setdefault(cls.category, []).append(option)
    return [
        {"label": group.label, "question": group.description, "options": options}
        for group, options in sorted(groups.items(), key=lambda pair: pair[0].order)
    ]


def measure(
    service: Service, request: MeasureRequest, on_progress: OnProgress | None = None
) -> MeasureResult:
    """Metrics of the chosen methods, beside the controls.

    Raises:
        TimmscopeError: the question cannot be answered by any method, or the evidence cannot be
            read.
    """
    if not request.methods or not request.metrics:
        return MeasureResult([empty_panel("Choose at least one method and one metric.")])
    resolved = resolve(service, request.question, on_progress)
    ground_truth = ground_truth_of(resolved, request.evidence)
    with service.slow.slot(on_progress) as on_step:
        comparison = compare_methods(
            resolved, request.methods, request.settings, request.layer, on_step
        )
        scoring = _Scoring(resolved, comparison, ground_truth, on_step)
        metrics = [_made(key, request.settings) for key in request.metrics]
        maps = min(int(request.random_maps or 0), MAX_RANDOM_MAPS)
        scores = {metric.key: scoring.scores(metric) for metric in metrics}
        ranks = {metric.key: scoring.percentile_ranks(metric, maps) for metric in metrics}
    headers, table = _table(scores, ranks, comparison, maps)
    curves = [(key, m) for m, found in scores.items() for key in found if key in comparison.results]
    return MeasureResult(
        _panels(scores, scoring, request),
        table,
        headers,
        curves,
        sum(m in CURVES and _has_curve(found) for m, found in scores.items()),
        resolved.answers(request.methods, request.metrics),
    )


def _made(metric: str, settings: Settings) -> Metric:
    return METRICS.make(metric, params_of(settings, metric, METRICS[metric]))


@dataclass
class _Scoring:
    """Measures metrics of maps.

    Attributes:
        resolved: the question.
        comparison: the maps.
        ground_truth: where the evidence is, if that is known.
        on_progress: told of rows done and expected.
        reasons: by metric, why there is no score of any method.
    """

    resolved: ResolvedQuestion
    comparison: Comparison
    ground_truth: Tensor | None
    on_progress: OnProgress | None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """What all metrics are measured with."""
        return {
            "target": self.resolved.target,
            "ground_truth": self.ground_truth,
            "on_progress": self.on_progress,
        }

    def scores(self, metric: Metric) -> dict[str, Score]:
        """The metric of each map and then of each control, as far as it applies to them."""
        explainer, batch = self.resolved.explainer, self.resolved.batch
        own = {}
        for key, found in self.comparison.results.items():
            try:
                own[key] = explainer.measure(batch, found, metric, **self.options)
            except CancelledError:
                raise
            except TimmscopeError as reason:  # its cell stays empty
                logger.info("%s of %s has no score: %s", metric.key, key, reason)
                self.reasons[metric.key] = str(reason)
        if own:
            self.reasons.pop(metric.key, None)
            with suppress(NotApplicableError):
                own |= explainer.controls(batch, metric, **self.options)
        return own

    def percentile_ranks(self, metric: Metric, maps: int) -> dict[str, float]:
        """The percentile of each map among random ones, if that is asked for and applies."""
        if maps < 1 or MetricInput.METHOD in metric.needs or metric.key in self.reasons:
            return {}
        explainer, batch = self.resolved.explainer, self.resolved.batch
        ranks = {
            key: explainer.percentile_rank(batch, found, metric, maps=maps, **self.options)
            for key, found in self.comparison.results.items()
        }
        return {key: float(rank.percentile[0]) for key, rank in ranks.items()}


Scores = Mapping[str, Mapping[str, Score]]
"""By metric and method."""


def _panels(scores: Scores, scoring: _Scoring, request: MeasureRequest) -> list[Panel]:
    comparison = scoring.comparison
    without_map = failures_of(comparison, request.methods, request.settings)
    without_score = [
        Failure(label := METRICS[key].label, why.removeprefix(f"{label} "), [key])
        for key, why in scoring.reasons.items()
    ]
    drawn = sorted(scores, key=lambda metric: metric not in CURVES)
    return [
        *(_curves(key, scores[key], comparison) for key in drawn if _has_curve(scores[key])),
        *reason_cards(without_map, request.chosen),
        *reason_cards(without_score, Chosen("metric", "metric", request.metrics, "metric-run")),
    ]


def _table(
    scores: Scores, ranks: Mapping[str, Mapping[str, float]], comparison: Comparison, maps: int
) -> tuple[list[str], list[list[Any]]]:
    """Headers, and a row for each method: its scores, then its percentile ranks."""
    ranked = [metric for metric in scores if ranks[metric]]
    methods = dict.fromkeys(key for found in scores.values() for key in found)
    headers = [
        "Method",
        *map(_with_arrow, scores),
        *(f"{METRICS[m].label}: percentile among {maps} random maps" for m in ranked),
    ]
    rows = [
        [
            label_of(key),
            *(_cell(found.get(key)) for found in scores.values()),
            *(ranks[metric].get(key) for metric in ranked),
        ]
        for key in methods
    ]
    return headers, rows


def _cell(score: Score | None) -> float | str | None:
    """The value, with its 95% interval where the metric gives one; or that it says nothing."""
    if score is None:
        return None
    if score.reason():
        return "cannot tell"
    value = float(score.value[0])
    if score.low is None or score.high is None:
        return round(value, 4)
    return f"{value:.3f} ({float(score.low[0]):.3f} to {float(score.high[0]):.3f})"


def _has_curve(scores: Mapping[str, Score]) -> bool:
    return bool(scores) and all(score.curve_x is not None for score in scores.values())


def _curves(metric: str, scores: Mapping[str, Score], comparison: Comparison) -> Panel:
    cls = METRICS[metric]
    better = "higher" if cls.higher_is_better else "lower"
    sentences = [cls.about, f"Area under the curve; {better} is better.", cls.caveat]
    shown = curves_panel(
        [_curve(key, score, comparison) for key, score in scores.items()],
        *cls.axes,
        title=_with_arrow(metric),
        caption=" ".join(filter(None, sentences)),
        height=LARGE if metric in CURVES else 360,
    )
    shown["figure"]["layout"]["meta"] = metric
    for key, line in zip(scores, shown["figure"]["data"], strict=True):
        line["meta"] = key
    return shown


def _curve(key: str, score: Score, comparison: Comparison) -> Curve:
    assert score.curve_x is not None
    assert score.curve_y is not None
    told = [not math.isnan(y) for y in score.curve_y[0].tolist()]  # steps that could be compared
    control = key not in comparison.results or METHODS[comparison.results[key].method].is_control
    curve: Curve = {
        "name": label_of(key),
        "x": list(itertools.compress(score.curve_x.tolist(), told)),
        "y": list(itertools.compress(score.curve_y[0].tolist(), told)),
        "style": "dash" if control else "solid",
    }
    if not score.reason():
        curve["auc"] = float(score.value[0])
    return curve


def _with_arrow(metric: str) -> str:
    cls = METRICS[metric]
    return f"{cls.label} {'↑' if cls.higher_is_better else '↓'}{' *' if cls.caveat else ''}"

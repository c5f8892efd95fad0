"""Does a map deserve trust, next to maps that know nothing?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from core import METHODS, METRICS, Attribution
from core.asking import OnProgress
from core.errors import CancelledError, NotApplicableError, TimmscopeError
from core.types import Score
from core.views.charts import Curve, curves_panel
from core.views.panels import Panel, empty_panel, error_panel
from dashboard.actions.question import Asked, Settings, answers, ask, trouble
from dashboard.controls import params_of
from dashboard.state import Question, Service

METHOD_ONLY = ["Method"]


@dataclass(frozen=True)
class Measured:
    """Curves and scores.

    Attributes:
        panels: a chart for each metric.
        table: method, then a column for each metric.
        headers: of the table.
        question: the one answered, with the class explained; None if there is no answer.
    """

    panels: list[Panel]
    table: list[list[Any]]
    headers: list[str]
    question: Question | None = None


def measure(
    service: Service,
    question: Question,
    methods: Sequence[str],
    metrics: Sequence[str],
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> Measured:
    """Metrics of the chosen methods, beside the controls."""
    if not methods or not metrics:
        panel = empty_panel("Choose at least one method and one metric.")
        return Measured([panel], [], METHOD_ONLY)
    try:
        asked = ask(service, question, on_progress)
        answer = answers(asked, methods, settings, layer, on_progress)
        scores = {
            key: _scores(asked, answer.results, key, settings, on_progress) for key in metrics
        }
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Measured([trouble("Not measured", question, error)], [], METHOD_ONLY)
    panels = [_curves(key, found) for key, found in scores.items() if _has_curve(found)]
    panels += [error_panel(METHODS[key].label, why) for key, why in answer.errors.items()]
    keys = dict.fromkeys(key for found in scores.values() for key in found)
    table = [[METHODS[key].label, *(_cell(scores[m].get(key)) for m in metrics)] for key in keys]
    headers = [_with_arrow(key) for key in metrics]
    return Measured(panels, table, METHOD_ONLY + headers, asked.question)


def _scores(
    asked: Asked,
    results: Mapping[str, Attribution],
    metric: str,
    settings: Settings,
    on_progress: OnProgress | None,
) -> dict[str, Score]:
    """The metric of each result and then of each control, as far as it applies to them."""
    instance = METRICS.make(metric, params_of(settings, metric, METRICS[metric]))
    asker = asked.explainer
    question: dict[str, Any] = {"target": asked.target, "on_progress": on_progress}
    own = {}
    for key, found in results.items():
        with suppress(NotApplicableError):  # its cell stays empty
            own[key] = asker.measure(asked.look, found, instance, **question)
    with suppress(NotApplicableError):
        own |= asker.controls(asked.look, instance, **question)
    return own


def _cell(score: Score | None) -> float | None:
    return None if score is None else round(float(score.value[0]), 4)


def _has_curve(scores: Mapping[str, Score]) -> bool:
    return bool(scores) and all(score.curve_x is not None for score in scores.values())


def _curves(metric: str, scores: Mapping[str, Score]) -> Panel:
    cls = METRICS[metric]
    better = "higher" if cls.higher_is_better else "lower"
    return curves_panel(
        [_curve(key, score) for key, score in scores.items()],
        *cls.axes,
        title=_with_arrow(metric),
        caption=f"{cls.about} Area under the curve; {better} is better.",
    )


def _curve(key: str, score: Score) -> Curve:
    assert score.curve_x is not None
    assert score.curve_y is not None
    return {
        "name": METHODS[key].label,
        "x": score.curve_x.tolist(),
        "y": score.curve_y[0].tolist(),
        "style": "dash" if METHODS[key].family == "control" else "solid",
        "auc": float(score.value[0]),
    }


def _with_arrow(metric: str) -> str:
    return f"{METRICS[metric].label} {'↑' if METRICS[metric].higher_is_better else '↓'}"

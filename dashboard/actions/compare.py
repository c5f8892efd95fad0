"""Several methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import METHODS, Attribution
from core.errors import CancelledError, TimmscopeError
from core.evaluation.recommendation import Recommendation
from core.export import colour_range, map_on_input
from core.inputs.batch import OnProgress
from core.types import Comparison
from core.views.charts import matrix_panel
from core.views.maps import overlay_panel, picture_uri
from core.views.panels import Panel, Tone, empty_panel, error_panel, finding_panel
from dashboard.actions.formatting import facts, spent
from dashboard.actions.question import Asked, Settings, answers, ask, trouble
from dashboard.state import Question, Service


@dataclass(frozen=True)
class Compared:
    """Several methods side by side.

    Attributes:
        panels: a card each, in the order chosen.
        table: method, passes forward and backward, milliseconds, remark.
        question: the one answered, with the class explained; None if there is no answer.
    """

    panels: list[Panel]
    table: list[list[Any]]
    question: Question | None = None


def compare(
    service: Service,
    question: Question,
    methods: Sequence[str],
    settings: Settings,
    layer: str | None,
    shared_range: bool,
    on_progress: OnProgress | None = None,
) -> Compared:
    """Every chosen method on one question; one that fails says so in its card."""
    if not methods:
        return Compared([empty_panel("Choose at least one method to compare.")], [])
    try:
        asked = ask(service, question, on_progress)
        answer = answers(asked, methods, settings, layer, on_progress)
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Compared([trouble("Not compared", question, error)], [])
    shared = colour_range(*answer.results.values()) if shared_range and answer.results else None
    uri = picture_uri(asked.batch.pictures[0].image)
    panels: list[Panel] = []
    table: list[list[Any]] = []
    for key in dict.fromkeys(METHODS[m].key for m in methods):
        label = METHODS[key].label
        if key in answer.errors:
            panels.append(error_panel(label, answer.errors[key]))
            table.append([label, None, None, None, answer.errors[key]])
            continue
        found = answer.results[key]
        panels.append(
            overlay_panel(
                uri,
                map_on_input(asked.batch, found),
                asked.batch.geometries[0],
                title=label,
                caption=spent(found.cost),
                limits=shared or colour_range(found),
            )
        )
        table.append(_row(label, found))
    return Compared(panels + _agreement(asked, answer, uri), table, asked.question)


def _agreement(asked: Asked, answer: Comparison, uri: str) -> list[Panel]:
    """Where methods disagree, and how far they agree; nothing for fewer than two."""
    if len(answer.results) < 2:
        return []
    found = asked.explainer.agreement(asked.batch, answer.results)
    names = [METHODS[key].label for key in found.methods]
    return [
        overlay_panel(
            uri,
            found.disagreement.numpy(),
            asked.batch.geometries[0],
            title="Where they disagree",
            caption="Spread of each pixel's rank among the methods: 0 if all rank it alike",
            limits=(0.0, 0.5),
        ),
        matrix_panel(
            found.spearman.tolist(),
            names,
            title="Rank correlation",
            caption="1 where two methods rank all pixels alike, 0 where they have nothing to do "
            "with each other",
        ),
        matrix_panel(
            found.ssim.tolist(),
            names,
            title="Structural similarity",
            caption="1 where two maps look alike, each scaled to its own range",
        ),
        matrix_panel(
            found.overlap.tolist(),
            names,
            title="Overlap of the top 10%",
            caption="Intersection over union of the pixels that two methods rank highest",
        ),
    ]


def _row(label: str, found: Attribution) -> list[Any]:
    cost = found.cost
    return [label, cost.forward, cost.backward, round(cost.seconds * 1000), facts(found)]


@dataclass(frozen=True)
class Recommended:
    """Which method to take.

    Attributes:
        panels: the recommendation in words, or why there is none.
        table: method, gain, from, to, passes, remark; controls last.
        question: the one answered, with the class explained; None if there is no answer.
    """

    panels: list[Panel]
    table: list[list[Any]]
    question: Question | None = None


def recommend(
    service: Service,
    question: Question,
    methods: Sequence[str],
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> Recommended:
    """Which of the chosen methods to take for this picture, and why."""
    if not methods:
        return Recommended([empty_panel("Choose at least one method to compare.")], [])
    try:
        asked = ask(service, question, on_progress)
        answer = answers(asked, methods, settings, layer, on_progress)
        failed = [error_panel(METHODS[key].label, why) for key, why in answer.errors.items()]
        if not answer.results:
            return Recommended(failed, [], asked.question)
        found = asked.explainer.recommend(
            asked.batch, answer.results, target=asked.target, on_progress=on_progress
        )
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Recommended([trouble("No recommendation", question, error)], [])
    if found.method is None:
        panel = finding_panel("None of them", found.words, "bad")
    else:
        tone: Tone = "good" if found.firm else "doubtful"
        panel = finding_panel(METHODS[found.method].label, found.words, tone)
    table = [
        [
            METHODS[one.method].label,
            *(round(v, 3) for v in (one.gain, min(one.gains), max(one.gains))),
            one.cost_in_passes,
            _remark(found, one.method),
        ]
        for one in found.ranking
    ]
    table += [
        [METHODS[key].label, round(gain, 3), None, None, None, "control"]
        for key, gain in sorted(found.controls.items(), key=lambda item: -item[1])
    ]
    return Recommended([panel, *failed], table, asked.question)


def _remark(found: Recommendation, method: str) -> str:
    if method == found.method:
        return "recommended"
    rival = found.doubtful.get(method)
    return f"no better than {METHODS[rival].label}" if rival else ""

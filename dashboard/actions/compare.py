"""Several methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import METHODS, Attribution
from core.errors import CancelledError, TimmscopeError
from core.explainer import OnProgress
from core.export import colour_range, map_on_input
from core.views.figures import Panel, empty_panel, error_panel, overlay_panel, picture_uri
from dashboard.actions.question import Settings, answers, ask, trouble
from dashboard.actions.words import facts, spent
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
    uri = picture_uri(asked.look.pictures[0].image)
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
                map_on_input(asked.look, found),
                asked.look.geometries[0],
                title=label,
                caption=spent(found.cost),
                limits=shared or colour_range(found),
            )
        )
        table.append(_row(label, found))
    return Compared(panels, table, asked.question)


def _row(label: str, found: Attribution) -> list[Any]:
    cost = found.cost
    return [label, cost.forward, cost.backward, round(cost.seconds * 1000), facts(found)]

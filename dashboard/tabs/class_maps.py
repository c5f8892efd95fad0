"""Small maps beside the likeliest classes, by the method of the Explain tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradio.events import Dependency

from core.errors import TimmscopeError
from dashboard import actions
from dashboard.actions import ExplainRequest
from dashboard.components import ClassMapAnswer, on_event
from dashboard.tabs.answers import AnswerArea, ask, grey_when_changed, seen_names
from dashboard.tabs.page import QUIET, Page

if TYPE_CHECKING:
    from dashboard.tabs.explain import ExplainWidgets

SCRUBBED = 700
"""Milliseconds after which a person stays at a layer of the filmstrip."""


def wire(page: Page, tab: ExplainWidgets, layer_chosen: Dependency) -> None:
    """Make the maps when a person wants them, and again when there is another explanation.

    The browser knows whether they are wanted; until then the server is asked nothing.

    Args:
        page: what the page asks.
        tab: the tab.
        layer_chosen: the event after which another layer's map is on the stage.
    """
    area = AnswerArea("class-maps", "", tab.class_maps)
    inputs = page.inputs(ExplainRequest, tab)

    def show(found: actions.ClassMaps) -> dict[Any, Any]:
        answer = ClassMapAnswer(
            found.panels, area.name, found.answers, classes=found.classes, note=found.note
        )
        return {tab.class_maps: answer}

    def failed(request: ExplainRequest, error: TimmscopeError) -> dict[Any, Any]:
        reason = f"No small maps: {actions.brief(error)}"
        return show(actions.ClassMaps(note=reason, answers=actions.Answers("small maps")))

    grey_when_changed(page, area, inputs)
    options = ask(page, area, actions.class_maps, inputs, show, failed)
    del options["show_progress_on"]
    tab.class_maps.submit(**{**options, **QUIET})
    tab.cancel.click(None, None, None, js=on_event("classMaps.cancel"), **QUIET)
    for changed, rest in ((tab.explanation.change, 0), (layer_chosen.then, SCRUBBED)):
        follow = on_event("classMaps.follow", rest, seen_names(inputs))
        changed(None, inputs.components, None, js=follow)

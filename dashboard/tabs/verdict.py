"""The badge of the Explain tab: whether the map on the stage can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from core.errors import TimmscopeError
from dashboard import actions
from dashboard.actions import VerdictRequest
from dashboard.components import encode, on_event
from dashboard.tabs.page import AT_ONCE, QUIET, Page

if TYPE_CHECKING:
    from dashboard.tabs.explain import ExplainWidgets

ASK = "Can this map be trusted?"
CLEAR_JS = on_event("verdict.clear", ASK)
FOUND_JS = on_event("verdict.found", ASK)


def wire(page: Page, tab: ExplainWidgets, layer_chosen: Dependency) -> None:
    """Test cheap maps at once, and others when asked; a press shows the tests.

    Args:
        page: what the page asks.
        tab: the tab.
        layer_chosen: the event after which another layer's map is on the stage.
    """

    def show(found: actions.VerdictResult) -> dict[str, Any]:
        cards = encode(found.panels) if found.panels else None
        return {
            "about": found.about, "layer": found.layer,
            "badge": found.badge, "tone": found.tone, "cards": cards,
        }  # fmt: skip

    def failed(request: VerdictRequest, error: TimmscopeError) -> dict[str, Any]:
        if request.explanation is None:
            raise gr.Error(str(error), print_exception=False)
        title = "This map could not be tested"
        card = actions.fault_card(title, request.explanation.question, error)
        return show(actions.VerdictResult.on(request, [card]))

    def unknown(request: VerdictRequest, error: TimmscopeError) -> dict[str, Any]:
        return show(actions.VerdictResult.on(request, []))

    inputs, shown = page.inputs(VerdictRequest, tab), [tab.test, tab.verdict]
    tested = tab.test.click(
        page.handler("test", actions.assess, inputs, show, failed),
        inputs.components,
        tab.found,
        show_progress_on=tab.verdict,
        trigger_mode="always_last",
    )
    tested.success(None, tab.found, shown, js=FOUND_JS, **AT_ONCE)
    clear: dict[str, Any] = {"fn": None, "outputs": [*shown, tab.link], "js": CLEAR_JS, **AT_ONCE}
    layer_chosen.then(**clear)
    cleared = tab.explanation.change(**clear)
    if page.service.checks:
        quietly = page.handler("test", actions.check_quietly, inputs, show, unknown)
        checked = cleared.then(quietly, inputs.components, tab.found, **QUIET)
        checked.success(None, tab.found, shown, js=FOUND_JS, **AT_ONCE)

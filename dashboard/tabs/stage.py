"""The stage of the Explain tab: parts that a person hides, and the map at each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradio.events import Dependency

from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from dashboard import actions
from dashboard.actions import VerdictRequest
from dashboard.components import CHOSEN_JS, on_event
from dashboard.state import Service
from dashboard.tabs.binding import Told
from dashboard.tabs.page import QUIET, Page

if TYPE_CHECKING:
    from dashboard.tabs.explain import ExplainWidgets

EFFECT_JS = on_event("stage.answered")
PARTS_JS = on_event("stage.receive")


def wire(page: Page, tab: ExplainWidgets) -> Dependency:
    """Connect the tools on the picture and the filmstrip.

    Returns:
        The event after which the filmstrip has put another layer's map onto the stage.
    """
    _hide(page, tab)
    _cut(page, tab)
    return _film(page, tab)


@dataclass(frozen=True)
class _Marked:
    """A part of the picture that a person marks on the stage.

    Attributes:
        question: what the page asks.
        event: what the stage sent.
    """

    question: actions.Question
    event: Told

    def answered(self, found: actions.HideResult | actions.SuperpixelResult) -> dict[str, Any]:
        """A result for the stage, which knows by the time that it sent what is answered."""
        return {**found.to_json(), "asked_at": self.event.get("asked_at")}


def _sentence(error: TimmscopeError) -> str:
    return f"{actions.brief(error).rstrip('.')}."


def _hide(page: Page, tab: ExplainWidgets) -> None:
    """Say what the model says while a part of the picture is hidden."""

    def hide(
        service: Service, marked: _Marked, on_progress: OnProgress | None = None
    ) -> dict[str, Any]:
        sent = marked.event
        kept, baseline = bool(sent.get("keep_only")), str(sent.get("baseline", "blur"))
        request = actions.HideRequest(marked.question, sent.get("mask"), kept, baseline)
        return marked.answered(actions.hide(service, request, on_progress))

    def failed(marked: _Marked, error: TimmscopeError) -> dict[str, Any]:
        return marked.answered(actions.HideResult(_sentence(error)))

    inputs = page.inputs(_Marked, tab)
    tab.result.submit(
        page.handler("", hide, inputs, lambda found: found, failed),
        inputs.components,
        tab.effect,
        queue=False,
        **QUIET,
    ).success(None, tab.effect, None, js=EFFECT_JS)


def _cut(page: Page, tab: ExplainWidgets) -> None:
    """Cut the picture into parts, when a person takes the tool that needs them."""

    def cut(
        service: Service, marked: _Marked, on_progress: OnProgress | None = None
    ) -> dict[str, Any]:
        return marked.answered(actions.picture_parts(service, marked.question, on_progress))

    def failed(marked: _Marked, error: TimmscopeError) -> dict[str, Any]:
        return marked.answered(actions.SuperpixelResult(words=_sentence(error)))

    inputs = page.inputs(_Marked, tab)
    tab.result.edit(
        page.handler("", cut, inputs, lambda found: found, failed),
        inputs.components,
        tab.parts,
        **QUIET,
    ).success(None, tab.parts, None, js=PARTS_JS)


def _film(page: Page, tab: ExplainWidgets) -> Dependency:
    """Show the map at every stage; the one pressed goes onto the stage without a request."""

    def film(
        service: Service, request: VerdictRequest, on_progress: OnProgress | None = None
    ) -> actions.FilmResult:
        return actions.film(service, request.explanation, on_progress)

    inputs = page.inputs(VerdictRequest, tab)
    show = page.handler(
        "film", film, inputs, lambda found: found, lambda request, error: actions.FilmResult()
    )
    tab.explanation.change(show, inputs.components, tab.film, **QUIET)
    outputs: list[Any] = [tab.layer, tab.summary, tab.code, tab.command]
    chosen: Dependency = tab.film.select(None, None, outputs, js=CHOSEN_JS)
    return chosen

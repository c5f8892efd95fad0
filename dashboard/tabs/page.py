"""What every tab is given, and what tabs have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core.errors import TimmscopeError
from core.views.panels import Panel
from dashboard import actions
from dashboard.components import Panels
from dashboard.state import Service
from dashboard.tabs.binding import Inputs, inputs_of
from dashboard.tabs.handlers import Action, OnFault, handler, session

R = TypeVar("R")
Trigger = Callable[..., Dependency]

QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "always_last",
}
"""For events that only keep the page consistent."""
DEFAULT_LAYER = ("default", "")
METHODS_INFO = (
    "To add a method again with other settings, type it: lime(samples=200) or gradcam@LAYER"
)
"""How a method can stand beside itself."""


@dataclass(frozen=True)
class Page:
    """What every tab is given.

    Attributes:
        service: models and running tasks.
        demo: the whole page.
        widgets: by name of a request's field: those of the question, of the view, and `settings`.
        model_opened: a model has been loaded.
        explainable: there is something new to explain: a picture, a model, or a class picked by
            its bar.
        target_changed: a person chose another class or score.
        question_changed: anything that a `Question` holds has changed, told at once.
    """

    service: Service
    demo: gr.Blocks
    widgets: Mapping[str, Component]
    model_opened: Dependency
    explainable: Sequence[Dependency]
    target_changed: Sequence[Trigger]
    question_changed: Sequence[Trigger]

    @property
    def settings(self) -> gr.JSON:
        """Parameters that a person changed, by method or metric."""
        store = self.widgets["settings"]
        assert isinstance(store, gr.JSON)
        return store

    def inputs(self, request: type[R], *sources: object, **constants: Any) -> Inputs[R]:
        """A request's fields bound to the page's and a tab's widgets; see `inputs_of`."""
        return inputs_of(request, self.widgets, *sources, **constants)

    def handler(
        self,
        task: str,
        action: Action[R],
        inputs: Inputs[R],
        show: Callable[[Any], Any],
        on_fault: OnFault[R] | None = None,
        on_cancel: Callable[[R], Any] | None = None,
    ) -> Callable[..., Any]:
        """The handler of an event that runs an action; see `handlers.handler`."""
        return handler(self.service, task, action, inputs, show, on_fault, on_cancel)


@dataclass(frozen=True)
class ResultArea:
    """The part of a tab that shows an action's results; a stale result is taken off the page.

    Attributes:
        panels: shows cards, also of what went wrong.
        empty: the cards while there are no results.
        others: further outputs, with what they show while there are no results.
        answered: the question that the results answer; None while there are none.
    """

    panels: Panels
    empty: Sequence[Panel]
    others: Mapping[Any, Any]
    answered: gr.State = field(default_factory=gr.State)

    @property
    def outputs(self) -> list[Any]:
        """Every output of the area."""
        return [self.panels, *self.others, self.answered]

    def cleared(self) -> dict[Any, Any]:
        """The outputs while there are no results."""
        return {self.panels: self.empty, **self.others, self.answered: None}

    def on_fault(self, title: str) -> OnFault[Any]:
        """Show a card with this title, and why there is no result."""

        def show(request: Any, error: TimmscopeError) -> dict[Any, Any]:
            card = actions.fault_card(title, request.question, error)
            return {**self.cleared(), self.panels: [card], self.answered: request.question}

        return show


@dataclass(frozen=True)
class _Shown:
    """A question on the page, and the one that a result on the page answers."""

    question: actions.Question
    answered: actions.Question | None


def clear_outdated(
    page: Page, area: ResultArea, work: Sequence[Dependency], any_target: bool = False
) -> None:
    """Take results off the page once they answer another question than the page asks.

    Args:
        page: what the page asks.
        area: what shows the results.
        work: events that bring results, perhaps late.
        any_target: for results that do not depend on the class.
    """

    def is_outdated(service: Service, shown: _Shown, on_progress: object = None) -> bool:
        answered = shown.answered
        return answered is not None and not shown.question.answered_by(answered, any_target)

    inputs = page.inputs(_Shown, {"answered": area.answered})
    check = page.handler(
        "", is_outdated, inputs, lambda outdated: area.cleared() if outdated else gr.skip()
    )
    triggers: list[Trigger] = [*page.question_changed, *(event.then for event in work)]
    for trigger in triggers:
        trigger(check, inputs.components, area.outputs, queue=False, **QUIET)


def cancel_on_click(page: Page, button: gr.Button, *tasks: str) -> None:
    """Make a button stop tasks.

    Gradio's own `cancels=` is not used: it reaches the server late on a busy machine, and then
    also stops the event that the visitor asked for in the meantime, without a word.
    """

    def cancel(visitor: gr.Request) -> None:
        for task in tasks:
            page.service.tasks.cancel(session(visitor, task))

    button.click(cancel, None, None, queue=False, **QUIET)


def follow_model(page: Page, **kinds: gr.Dropdown) -> None:
    """Keep choices true to the model.

    Args:
        page: whose model.
        kinds: dropdowns by what they offer: `methods` (one that the model cannot run says so),
            `layers` on a grid, or `attention` layers.
    """

    def show(offers: actions.ModelOffers) -> dict[Any, Any]:
        updates = {"methods": gr.Dropdown(offers.methods)}
        for kind, names in (("layers", offers.layers), ("attention", offers.attention)):
            choices = [DEFAULT_LAYER, *((name, name) for name in names)]
            updates[kind] = gr.Dropdown(choices, value="")
        return {dropdown: updates[kind] for kind, dropdown in kinds.items()}

    def without_model(request: object, error: TimmscopeError) -> dict[Any, Any]:
        return show(actions.ModelOffers(methods=actions.method_choices()))

    inputs = page.inputs(actions.ModelRequest)
    follow = page.handler("", actions.describe_model, inputs, show, without_model)
    page.model_opened.success(follow, inputs.components, list(kinds.values()), **QUIET)

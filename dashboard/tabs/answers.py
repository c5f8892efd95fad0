"""Areas of results that say when they no longer answer what the page asks.

`components/answers.js` compares, in the browser. Here are the events that tell it what is asked,
and those that stop work whose answer nobody waits for any longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core.errors import TimmscopeError
from dashboard import actions
from dashboard.components import Answer, WaysOut, on_event
from dashboard.tabs.binding import Inputs
from dashboard.tabs.handlers import Action, OnFault
from dashboard.tabs.page import AT_ONCE, QUIET, Page
from dashboard.visitor import session

R = TypeVar("R")


@dataclass(frozen=True)
class AnswerArea:
    """The part of a tab that shows an action's results.

    Attributes:
        name: identifies it; the results stand in a column with the id ``NAME-answer``.
        button: what the button that asks is called.
        panels: shows cards, also of what went wrong.
        others: further outputs, with what they show while there are no results.
        tasks: what else stops when the question changes, such as tests of the results.
        ask: the id of the button that asks.
    """

    name: str
    button: str
    panels: Component
    others: Mapping[Any, Any] = field(default_factory=dict)
    tasks: Sequence[str] = ()
    ask: str = "run"

    @property
    def outputs(self) -> list[Any]:
        """Every output of the area."""
        return [self.panels, *self.others]

    def answer(self, found: actions.Answered) -> Answer:
        """The value of the area's panels for a result."""
        return Answer(found.panels, self.name, found.answers)

    def on_fault(
        self, title: str, chosen: Callable[[Any], actions.Chosen] | None = None
    ) -> OnFault[Any]:
        """Show a card with this title, and why there is no result.

        Args:
            title: of the card.
            chosen: what a request compares, for buttons that change that.
        """

        def show(request: Any, error: TimmscopeError) -> dict[Any, Any]:
            listed = None if chosen is None else chosen(request)
            card = actions.fault_card(title, request.question, error, self.ask, listed)
            before = actions.Answers("the question before")
            return {**self.others, self.panels: Answer([card], self.name, before)}

        return show


def answer_column(name: str) -> gr.Column:
    """The column that holds the results of an area."""
    return gr.Column(elem_id=f"{name}-answer", elem_classes="ts-answer")


def ask(
    page: Page,
    area: AnswerArea,
    action: Action[R],
    inputs: Inputs[R],
    show: Callable[[Any], Mapping[Any, Any]],
    failed: OnFault[R],
) -> dict[str, Any]:
    """Arguments of an event by which a person asks an action for the results of an area.

    Args:
        page: what the page asks.
        area: what shows the results.
        action: gives an `actions.Answered`.
        inputs: make the request.
        show: the outputs from the result.
        failed: the outputs from the request and the error.
    """
    return {
        "fn": page.handler(area.name, action, inputs, show, failed, stamped=True),
        "inputs": [*inputs.components, page.asked_at],
        "outputs": area.outputs,
        "js": _call("ask", area.name, inputs),
        "trigger_mode": "always_last",
        "show_progress_on": area.panels,
    }


def following(options: Mapping[str, Any], area: AnswerArea, inputs: Inputs[Any]) -> dict[str, Any]:
    """The same arguments for an event that follows from a choice, but comes a moment later.

    Whoever cancels in that moment cancels it, too.
    """
    return {**options, "js": _call("follow", area.name, inputs)}


def keep_true(
    page: Page, area: AnswerArea, inputs: Inputs[Any], replaced_by: Sequence[Callable[..., Any]]
) -> None:
    """Grey results once they answer another question, and stop work that is replaced.

    Call it before the events that ask, because stopping must come first: an event is only told of
    once those before it are done. The sidebar stops all work when picture, model or class change.

    Args:
        page: what the page asks.
        area: what shows the results.
        inputs: of what the results are asked by.
        replaced_by: events of the tab by which a person asks something else.
    """
    grey_when_changed(page, area, inputs)
    if replaced_by:
        gr.on(
            list(replaced_by),
            _stop(page, area),
            page.asked_at,
            None,
            js=on_event("answers.replaced", area.name),
            queue=False,
            **AT_ONCE,
        )


def stop_for_settings(page: Page, area: AnswerArea) -> None:
    """Stop work for an area once a person changes a setting that it depends on.

    The settings of all methods and metrics are in one place; the browser knows which ones matter.
    """
    stop = _stop(page, area)

    def stop_if_asked_before(settings: object, asked_at: float, visitor: gr.Request) -> None:
        stop(asked_at, visitor)

    page.settings.change(
        stop_if_asked_before,
        [page.settings, page.asked_at],
        None,
        js=on_event("answers.setting", area.name),
        queue=False,
        **AT_ONCE,
    )


def on_way_out(ways_out: WaysOut, fields: Mapping[str, Component]) -> Dependency:
    """Change the field that a button on a card of what went wrong names, and ask again.

    Args:
        ways_out: hears of the buttons.
        fields: by the names that it was made with.

    Returns:
        The event after the change.
    """
    widgets: list[Any] = list(fields.values())
    changed = ways_out.select(None, widgets, widgets, js=WaysOut.values_js(fields), **QUIET)
    changed.then(None, None, None, js=on_event("waysOut.ask"), **QUIET)
    return changed


def grey_when_changed(page: Page, area: AnswerArea, inputs: Inputs[Any]) -> None:
    """Tell the browser whenever a field of the tab changes by which an area is asked.

    The page's own fields tell all areas at once; see `sidebar.wire`.
    """
    seen = {name: inputs.widgets[name] for name in seen_names(inputs)}
    own = {name: one for name, one in seen.items() if one is not page.widgets.get(name)}
    if own:
        tell_changes(own, area.name)


def tell_changes(fields: Mapping[str, Component], area: str | None = None) -> None:
    """Tell the browser whenever one of these fields changes.

    Args:
        fields: by name.
        area: whose fields they are; None for all areas'.
    """
    widgets: list[Any] = list(fields.values())
    called = on_event("answers.changed", area, list(fields))
    gr.on([one.change for one in widgets], None, widgets, None, js=called, **AT_ONCE)


def cancel_on_click(page: Page, button: gr.Button, *areas: AnswerArea) -> None:
    """Make a button stop the work for areas.

    Gradio's own `cancels=` is not used: it reaches the server late on a busy machine, and then
    also stops the event that the visitor asked for in the meantime, without a word.
    """
    for area in areas:
        button.click(
            _stop(page, area),
            page.asked_at,
            None,
            js=on_event("answers.cancelled", area.name, area.button),
            queue=False,
            **QUIET,
        )


def enough_on_click(page: Page, button: gr.Button, area: AnswerArea) -> None:
    """Make a button stop the work for an area and keep what there is.

    The button belongs into the area's column; it is seen while partial results come.
    """

    def enough(asked_at: float, visitor: gr.Request) -> None:
        page.service.tasks.enough(session(visitor, area.name), before=asked_at)

    button.click(
        enough,
        page.asked_at,
        None,
        js=on_event("answers.enough", area.name),
        queue=False,
        **QUIET,
    )


def _stop(page: Page, area: AnswerArea) -> Callable[..., None]:
    def stop(asked_at: float, visitor: gr.Request) -> None:
        for task in (area.name, *area.tasks):
            page.service.tasks.cancel(session(visitor, task), before=asked_at)

    return stop


def _call(function: str, area: str, inputs: Inputs[Any]) -> str:
    return on_event(f"answers.{function}", area, seen_names(inputs))


def seen_names(inputs: Inputs[Any]) -> list[str]:
    """The fields whose values the browser knows."""
    return [name for name, one in inputs.widgets.items() if _is_seen(one)]


def _is_seen(component: Component) -> bool:
    """Whether the browser knows the value."""
    return not isinstance(component, gr.State)

"""What the tabs share: cancelling, choices that follow the model, results that stay or go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.events import Dependency

from dashboard import actions
from dashboard.handlers import asking, session
from dashboard.sidebar import QUIET, Sidebar
from dashboard.state import Question

METHOD_CHOICES = actions.method_choices()
DEFAULT_LAYER = ("default", "")


def cancelling(
    side: Sidebar, button: gr.Button, tasks: Sequence[str], work: Sequence[Dependency]
) -> None:
    """Make a button stop a tab's work, in the page and on the server."""

    def cancel(request: gr.Request) -> None:
        for task in tasks:
            side.service.cancel(session(request, task))

    button.click(cancel, None, None, queue=False, cancels=list(work), **QUIET)


def follow_model(side: Sidebar, **kinds: gr.Dropdown) -> None:
    """Keep choices true to the model.

    Args:
        side: whose model.
        kinds: dropdowns by what they offer: `methods` (one that the model cannot run says so),
            `layers` on a grid, or `attention` layers.
    """

    def choices(model: str, weights: str) -> Any:
        facts = actions.describe_model(side.service, model, weights)
        offers = {"methods": gr.Dropdown(facts.methods)}
        for kind in ("layers", "attention"):
            names = [(name, name) for name in getattr(facts, kind)]
            offers[kind] = gr.Dropdown([DEFAULT_LAYER, *names], value="")
        return {dropdown: offers[kind] for kind, dropdown in kinds.items()}

    side.opened.success(choices, [side.model, side.weights], list(kinds.values()), **QUIET)


def keep(
    side: Sidebar,
    answered: gr.State,
    work: Sequence[Dependency],
    empty: dict[Any, Any],
    whatever_target: bool = False,
) -> None:
    """Take results off the page once they answer another question than the page asks.

    Args:
        side: what the page asks.
        answered: the question that the results answer; None while there are none.
        work: what brings results, perhaps late.
        empty: what to show without them.
        whatever_target: for results that do not depend on the target.
    """

    @asking
    def check(question: Question, answered: Question | None) -> Any:
        if answered is None or question.answered_by(answered, whatever_target):
            return gr.skip()
        return [None, *empty.values()]

    inputs, outputs = [*side.question, answered], [answered, *empty]
    triggers: list[Any] = [*side.changes, *(event.then for event in work)]
    for trigger in triggers:
        trigger(check, inputs, outputs, queue=False, **QUIET)

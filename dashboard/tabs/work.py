"""What the tabs share: progress and cancelling, and methods to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core import METHODS
from core.explainer import OnProgress
from dashboard import actions
from dashboard.sidebar import QUIET, Sidebar

Choices = list[tuple[str, str]]

METHOD_CHOICES: Choices = [(cls.label, key) for key, cls in METHODS.items()]
DEFAULT_LAYER = ("default", "")


def begin(side: Sidebar, tab: str, request: gr.Request, progress: gr.Progress) -> OnProgress:
    """Start a tab's work: reports to the progress bar, stops when cancelled."""
    session = f"{request.session_hash}/{tab}"
    return side.service.begin(session, lambda done, text: progress(done, desc=text))


def cancelling(side: Sidebar, button: gr.Button, tab: str, work: Sequence[Dependency]) -> None:
    """Make a button stop a tab's work, in the page and on the server."""

    def cancel(request: gr.Request) -> None:
        side.service.cancel(f"{request.session_hash}/{tab}")

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

    side.opened.then(choices, [side.model, side.weights], list(kinds.values()), **QUIET)


def clear(side: Sidebar, empty: dict[Any, Any]) -> None:
    """Take results off the page when the question they answered has changed."""
    outputs, values = list(empty), list(empty.values())
    triggers: list[Any] = [*side.inputs, *(event.then for event in side.ready)]
    for trigger in triggers:
        trigger(lambda: values, None, outputs, **QUIET)

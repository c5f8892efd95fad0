"""Explain: one method's map over the picture."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from core import METHODS
from core.errors import CancelledError, TimmscopeError
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice, settings
from dashboard.sidebar import QUIET, Sidebar
from dashboard.state import Question
from dashboard.tabs.work import METHOD_CHOICES, begin, cancelling

DEFAULT_METHOD = "gradcam"
KINDS = ("png", "npz", "json")
SAVE_JS = "() => setTimeout(() => document.querySelector('#download-file').click(), 50)"


def build(side: Sidebar, view: list[Component]) -> None:
    """The tab, wired; files are saved as the view shows them."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=260):
            method = gr.Dropdown(
                METHOD_CHOICES, value=DEFAULT_METHOD, label="Method", elem_id="method"
            )
            about = gr.Markdown(METHODS[DEFAULT_METHOD].about, elem_classes="ts-note")
            layer = Choice([], label="Layer", elem_id="layer")
            groups = settings(METHODS, side.store, DEFAULT_METHOD)
            with gr.Row():
                run = gr.Button(
                    "Explain", variant="primary", elem_id="run", size="md", min_width=100
                )
                stop = gr.Button("Cancel", elem_id="stop", size="md", min_width=80)
        with gr.Column(scale=5, min_width=300):
            result = Panels(elem_id="result", card_width=280, columns=1, min_height=420)
            trust = gr.Markdown(elem_id="trust", elem_classes="ts-note")
            with gr.Row():
                saves = {
                    kind: gr.Button(
                        f"Save {kind.upper()}", size="sm", elem_id=f"save-{kind}", min_width=90
                    )
                    for kind in KINDS
                }
            file = gr.DownloadButton("file", visible="hidden", elem_id="download-file")
            with gr.Accordion("The same in Python", open=False):
                recipe = gr.Code(language="python", interactive=False, show_label=False)

    service = side.service
    asked: list[Component] = [*side.question, method, layer, side.store]
    last = gr.State()
    shown = [result, trust, recipe, last]

    def explain(
        picture: Any,
        model: str,
        weights: str,
        target: int | str | None,
        versus: int | str | None,
        unit: str,
        method: str,
        layer: str | None,
        settings: dict[str, Any],
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it there
    ) -> Any:
        question = Question(picture, model, weights, target, versus, unit)
        tick = begin(side, "explain", request, progress)
        try:
            found = actions.explain(service, question, method, settings, layer, tick)
        except CancelledError:
            return gr.skip()
        return found.panels, found.summary, found.recipe, (question, method, settings, layer)

    def describe_method(model: str, weights: str, method: str) -> list[Any]:
        facts = actions.describe_method(service, model, weights, method)
        choice = gr.Dropdown(facts.layers, value=facts.layer, visible=bool(facts.layers))
        return [facts.about, choice, *(gr.Group(visible=method == key) for key in groups)]

    def follow_model(model: str, weights: str, method: str) -> list[Any]:
        facts = actions.describe_model(service, model, weights)
        return [gr.Dropdown(facts.methods), *describe_method(model, weights, method)]

    which = [side.model, side.weights, method]
    described = [about, layer, *groups.values()]
    side.opened.then(follow_model, which, [method, *described], **QUIET)
    picked = method.input(
        describe_method,
        which,
        described,
        queue=False,
        show_progress="hidden",
        api_name="describe_method",
    )
    first = gr.on(
        [run.click, layer.input, *side.inputs],
        explain,
        asked,
        shown,
        api_name="explain",
        trigger_mode="always_last",
        show_progress_on=result,
    )
    rest = [
        event.then(
            explain,
            asked,
            shown,
            api_visibility="private",
            trigger_mode="always_last",
            show_progress_on=result,
        )
        for event in (picked, *side.ready)
    ]
    cancelling(side, stop, "explain", [side.opened, first, *rest])
    for kind, button in saves.items():
        _saving(side, button, kind, [last, *view], file)


def _saving(
    side: Sidebar, button: gr.Button, kind: str, shown: list[Component], file: gr.DownloadButton
) -> None:
    """A button that writes the explanation as the page shows it now, and saves it."""

    def write(last: Any, colormap: str, alpha: float, fade: bool) -> str:
        if last is None:
            raise gr.Error("nothing to save yet; press Explain first")
        question, method, settings, layer = last
        try:
            return actions.download(
                side.service, question, method, settings, layer, kind, colormap, alpha, fade
            )
        except TimmscopeError as error:
            raise gr.Error(str(error)) from None

    written = button.click(write, shown, file, **QUIET)
    written.success(None, None, None, js=SAVE_JS)

"""Explain: one method's map over the picture."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core import METHODS
from core.errors import CancelledError, TimmscopeError
from core.inputs.batch import OnProgress
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice, settings
from dashboard.handlers import begin, working
from dashboard.sidebar import QUIET, Sidebar
from dashboard.state import Question
from dashboard.tabs.common import METHOD_CHOICES, cancelling

DEFAULT_METHOD = "gradcam"
KINDS = ("png", "npz", "json")
SAVE_JS = "() => setTimeout(() => document.querySelector('#download-file').click(), 50)"


def build(side: Sidebar, view: list[Component]) -> None:
    """The tab, wired; files are saved as the view shows them."""
    with gr.Row(equal_height=False, elem_id="explain"):
        with gr.Column(scale=2, min_width=260, elem_id="ask"):
            method = gr.Dropdown(
                METHOD_CHOICES, value=DEFAULT_METHOD, label="Method", elem_id="method"
            )
            about = gr.Markdown(METHODS[DEFAULT_METHOD].about, elem_classes="ts-note")
            cost = gr.Markdown(elem_classes="ts-note", elem_id="takes")
            layer = Choice([], label="Layer", elem_id="layer")
            with gr.Row():
                run = gr.Button(
                    "Explain", variant="primary", elem_id="run", size="md", min_width=100
                )
                stop = gr.Button("Cancel", elem_id="stop", size="md", min_width=80)
            with gr.Column(elem_id="method-settings"):
                groups = settings(METHODS, side.store, DEFAULT_METHOD)
        with gr.Column(scale=5, min_width=300):
            result = Panels(elem_id="result", card_width=280, columns=1, min_height=320)
            trust = gr.Markdown(elem_id="trust", elem_classes="ts-note")
            with gr.Row():
                saves = {
                    kind: gr.Button(
                        f"Save {kind.upper()}", size="sm", elem_id=f"save-{kind}", min_width=90
                    )
                    for kind in KINDS
                }
            judge = gr.Button(
                "Can this map be trusted?", elem_id="judge", size="sm", variant="secondary"
            )
            verdict = Panels([], elem_id="verdict", card_width=240, columns=2)
            file = gr.DownloadButton("file", visible="hidden", elem_id="download-file")
            with gr.Accordion("The same in Python", open=False):
                code_snippet = gr.Code(language="python", interactive=False, show_label=False)

    service = side.service
    asked: list[Component] = [*side.question, method, layer, side.store]
    last = gr.State()
    shown = [result, trust, code_snippet, last]

    @working(service, "explain")
    def explain(
        question: Question,
        on_progress: OnProgress,
        method: str,
        layer: str | None,
        settings: dict[str, Any],
    ) -> Any:
        found = actions.explain(service, question, method, settings, layer, on_progress)
        last = question, method, settings, layer
        return found.panels, found.summary, found.code_snippet, last

    def takes(
        model: str, weights: str, method: str, layer: str | None, settings: dict[str, Any]
    ) -> str:
        return actions.takes(service, model, weights, method, settings, layer)

    def describe_method(model: str, weights: str, method: str) -> list[Any]:
        facts = actions.describe_method(service, model, weights, method)
        choice = gr.Dropdown(facts.layers, value=facts.layer, visible=bool(facts.layers))
        return [facts.about, choice, *(gr.Group(visible=method == key) for key in groups)]

    def follow_model(model: str, weights: str, method: str) -> list[Any]:
        facts = actions.describe_model(service, model, weights)
        return [gr.Dropdown(facts.methods), *describe_method(model, weights, method)]

    which = [side.model, side.weights, method]
    described = [about, layer, *groups.values()]
    followed = side.opened.success(follow_model, which, [method, *described], **QUIET)
    picked = method.input(
        describe_method,
        which,
        described,
        queue=False,
        show_progress="hidden",
        api_name="describe_method",
    )
    triggers: list[Any] = [followed.then, picked.then, layer.change, side.store.change]
    for trigger in triggers:
        trigger(takes, [*which, layer, side.store], cost, queue=False, **QUIET)
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
    saved = [
        _saving(side, button, kind, [last, *view], file, result) for kind, button in saves.items()
    ]
    for event in (first, *rest):  # a verdict is on the map before
        event.then(lambda: [], None, verdict, queue=False, **QUIET)
    judged = _judging(side, judge, last, verdict)
    cancelling(side, stop, ["explain", "save", "trust"], [first, *rest, *saved, judged])


def _judging(side: Sidebar, button: gr.Button, last: gr.State, verdict: Panels) -> Dependency:
    """A button that puts the explanation on the page to the test."""

    def judge(
        last: Any,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it there
    ) -> Any:
        if last is None:
            raise gr.Error("nothing to judge yet; press Explain first")
        question, method, settings, layer = last
        on_progress = begin(side.service, "trust", request, progress)
        try:
            return actions.assess(side.service, question, method, settings, layer, on_progress)
        except CancelledError:
            return gr.skip()

    return button.click(
        judge,
        last,
        verdict,
        show_progress_on=verdict,
        api_visibility="private",
        trigger_mode="always_last",
    )


def _saving(
    side: Sidebar,
    button: gr.Button,
    kind: str,
    shown: list[Component],
    file: gr.DownloadButton,
    result: Component,
) -> Dependency:
    """A button that writes the explanation as the page shows it now, and saves it.

    It takes time only where the explanation is no longer kept.
    """

    def write(
        last: Any,
        colormap: str,
        alpha: float,
        fade: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it there
    ) -> str:
        if last is None:
            raise gr.Error("nothing to save yet; press Explain first")
        on_progress = begin(side.service, "save", request, progress)
        question, method, settings, layer = last
        try:
            return actions.download(
                side.service,
                question,
                method,
                settings,
                layer,
                kind,
                colormap,
                alpha,
                fade,
                on_progress,
            )
        except TimmscopeError as error:
            raise gr.Error(str(error)) from None

    written = button.click(
        write,
        shown,
        file,
        show_progress="minimal",
        show_progress_on=result,
        api_visibility="private",
        trigger_mode="always_last",
    )
    written.success(None, None, None, js=SAVE_JS)
    return written

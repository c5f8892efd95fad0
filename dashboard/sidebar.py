"""What all tabs ask about: the picture, the model, the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core.errors import CancelledError
from core.inputs.assets import asset
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice
from dashboard.handlers import asking, begin, session
from dashboard.state import LOADS, MODELS, NOTHING, Question, Service

SAMPLES = asset("samples")
EXAMPLES = {
    "cat": "chelsea.jpg",
    "coffee": "coffee.jpg",
    "cat and coffee": "chelsea_coffee.jpg",
    "rocket": "rocket.jpg",
    "astronaut": "astronaut.jpg",
}
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "always_last",
}
"""For events that only keep the page consistent."""


class Picture(gr.Image):
    """A picture as the uploaded file, which `core.inputs.image` decodes and checks."""

    def preprocess(self, payload: Any) -> str | None:
        """The path of the uploaded file."""
        return None if payload is None else payload.path

    def get_block_name(self) -> str:
        """The page's own component that this one builds on."""
        return "image"


@dataclass(frozen=True)
class Sidebar:
    """The widgets every tab reads.

    Attributes:
        service: models and answers.
        question: the inputs of a `Question`, in its order.
        model: the model's name.
        weights: "pretrained" or "random".
        store: parameters a person set, by method or metric.
        inputs: triggers of a changed target.
        changes: triggers of any changed question, at once.
        opened: a model has been loaded.
        ready: there is something new to explain: a new picture, model, or class picked by its bar.
    """

    service: Service
    question: list[Component]
    model: gr.Dropdown
    weights: gr.Radio
    store: gr.JSON
    inputs: list[Callable[..., Dependency]]
    changes: list[Callable[..., Dependency]]
    opened: Dependency
    ready: list[Dependency]


def build(service: Service, demo: gr.Blocks) -> Sidebar:
    """The column on the left, wired."""
    picture = Picture(
        str(SAMPLES / EXAMPLES["cat"]),
        label="Picture",
        sources=["upload", "webcam", "clipboard"],
        height=220,
        buttons=["fullscreen"],
        elem_id="picture",
    )
    gr.Examples(
        [[str(SAMPLES / name)] for name in EXAMPLES.values()],
        [picture],
        label="Examples",
        example_labels=list(EXAMPLES),
        cache_examples=False,
    )
    notes = gr.Markdown(visible=False, elem_classes="ts-note")
    with gr.Group():
        model = gr.Dropdown(
            list(MODELS),
            value=MODELS[0],
            label="Model",
            info="Any timm name, or hf-hub:owner/name",
            allow_custom_value=True,
            elem_id="model",
        )
        weights = gr.Radio(
            [("Pretrained", "pretrained"), ("Random", "random")],
            value="pretrained",
            label="Weights",
            elem_id="weights",
        )
    about = gr.Markdown(elem_classes="ts-note", elem_id="about-model")
    leave = gr.Button("Cancel loading", size="sm", visible=False, elem_id="leave")
    bars = Panels(elem_id="prediction", card_width=240, min_height=240)
    target = Choice([], label="Explain", info="The class in question", elem_id="target")
    with gr.Accordion("More about the question", open=False):
        versus = Choice(
            [], label="Rather than", info="Explain the difference to this class", elem_id="versus"
        )
        unit = gr.Radio(
            [("Logit", "logit"), ("Probability", "probability")],
            value="logit",
            label="By its",
            elem_id="unit",
        )
    store = gr.JSON({}, visible="hidden", elem_id="store")
    question: list[Component] = [picture, model, weights, target, versus, unit]
    shown = [bars, target, versus, notes]

    def open_model(model: str, weights: str, request: gr.Request) -> Iterator[list[Any]]:
        on_progress = begin(service, "model", request)
        if not service.loaded(model, weights):
            yield [f"Loading {model} …", gr.Button(visible=True)]
        try:
            facts = actions.describe_model(service, model, weights, on_progress)
        except CancelledError:  # said here too: the last words of a handler may come again
            yield left(model)
        else:
            yield [facts.error or facts.summary, gr.Button(visible=False)]

    def stop_waiting(model: str, request: gr.Request) -> list[Any]:
        service.cancel(session(request, "model"))
        return left(model)

    def left(model: str) -> list[Any]:
        said = f"No longer waiting for {model}; choose another model, or press Explain to wait."
        return [said, gr.Button(visible=False)]

    @asking
    def predict(question: Question) -> list[Any]:
        seen = actions.predict(service, question)
        return [
            seen.panels,
            gr.Dropdown(seen.classes, value=seen.predicted),
            gr.Dropdown([("—", NOTHING), *seen.classes], value=NOTHING),
            gr.Markdown(seen.notes, visible=bool(seen.notes)),
        ]

    @asking
    def pick(question: Question, event: gr.EventData) -> Any:
        return actions.predict(service, question).classes[event.index][1]

    # Ahead of what takes time: the events of one component run in this order, one after the other.
    forgotten = gr.on(
        [picture.change, model.change, weights.change],
        None,
        None,
        [target, versus],
        js=f"() => [null, {NOTHING}]",
    )
    opened = gr.on(
        [demo.load, model.change, weights.change],
        open_model,
        [model, weights],
        [about, leave],
        show_progress="hidden",
        api_name="describe_model",
        trigger_mode="always_last",
        concurrency_limit=LOADS,
    )
    leave.click(stop_waiting, model, [about, leave], queue=False, cancels=[opened], **QUIET)
    again = opened.success(predict, question, shown, api_name="predict_again", **QUIET)
    changed = picture.change(
        predict,
        question,
        shown,
        show_progress="hidden",
        api_name="predict",
        trigger_mode="always_last",
    )
    picked = bars.select(pick, question, target, queue=False, **QUIET)
    inputs = [target.input, versus.input, unit.input]
    ready = [again, changed, picked]
    return Sidebar(
        service=service,
        question=question,
        model=model,
        weights=weights,
        store=store,
        inputs=inputs,
        changes=[forgotten.then, *inputs, *(event.then for event in ready)],
        opened=opened,
        ready=ready,
    )

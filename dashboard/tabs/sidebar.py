"""What all tabs ask about: the picture, the model, the class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core.errors import TimmscopeError
from core.inputs.image import open_picture
from core.tasks.activation import ACTIVATIONS, IDENTITY
from core.views.maps import picture_uri
from dashboard import actions
from dashboard.actions import NO_CLASS
from dashboard.actions.predict import ABOUT
from dashboard.components import (
    CROP_JS,
    MARK_JS,
    PICK_JS,
    Choice,
    Chosen,
    ClassRows,
    CropBox,
    Picture,
    ProposedClasses,
    on_event,
)
from dashboard.state import MODELS, Service
from dashboard.state.models import FOUND, MAX_LOADS, MAX_UNIT
from dashboard.tabs.address import SUBJECT, Address
from dashboard.tabs.answers import tell_changes
from dashboard.tabs.binding import inputs_of
from dashboard.tabs.examples import (
    EXAMPLE_FILES,
    EXAMPLES,
    FIRST,
    SAMPLES,
    SCENE_EXAMPLES,
    SCENES,
)
from dashboard.tabs.handlers import handler
from dashboard.tabs.page import AT_ONCE, CHOSEN_JS, QUIET, Page
from dashboard.tabs.view import ViewWidgets
from dashboard.visitor import session

ASK_JS = on_event("classes.ask", ABOUT)


@dataclass(frozen=True)
class SidebarWidgets:
    """The column on the left; the fields of a `Question` have its names.

    Attributes:
        picture: the picture.
        photographs: examples for most models.
        scenes: examples for models that know generated scenes only.
        notes: what a person should know of the picture, or why it cannot be used.
        seen: the part of the picture that the model sees, as a box that can be dragged.
        crop: that part, where a person has chosen it; None for the model's own.
        model: the model's name.
        weights: "pretrained" or "random".
        activation: what the model's outputs are.
        measured_in: the unit of outputs that are numbers.
        about_model: what the model is, or that it is loading.
        cancel_loading: stops waiting for the model.
        likely: the most likely classes.
        target: the class to explain.
        versus: the class to compare it with.
        any_target: the list of classes to explain.
        any_versus: the list of classes to compare it with.
        unit: which score is explained.
        against: whether what speaks against the class is explained.
        settings: parameters that a person changed, by method or metric.
    """

    picture: Picture
    photographs: gr.Dataset
    scenes: gr.Dataset
    notes: gr.Markdown
    seen: CropBox
    crop: Chosen
    model: gr.Dropdown
    weights: gr.Radio
    activation: gr.Dropdown
    measured_in: gr.Textbox
    about_model: gr.Markdown
    cancel_loading: gr.Button
    likely: ClassRows
    target: Chosen
    versus: Chosen
    any_target: Choice
    any_versus: Choice
    unit: gr.Radio
    against: gr.Checkbox
    settings: gr.JSON


def layout() -> SidebarWidgets:
    """The column on the left."""
    with gr.Column(elem_id="picture-sheet", elem_classes="ts-sheet"):
        picture, photographs, scenes = _picture()
        notes = gr.Markdown(visible=False, elem_classes="ts-note", elem_id="picture-notes")
        with gr.Accordion("What the model sees", open=False, elem_id="crop-options"):
            seen = CropBox(elem_id="crop-box")
    with gr.Column(elem_id="class-sheet", elem_classes="ts-sheet"):
        sizes = {name: Path(path).stat().st_size for name, path in EXAMPLE_FILES.items()}
        likely = ClassRows(elem_id="prediction", min_height=240, examples=sizes)
        classes = _classes()
    with gr.Column(elem_id="model-sheet", elem_classes="ts-sheet"):
        model, about_model, cancel, reading = _model()
    settings = gr.JSON({}, visible="hidden", elem_id="settings")
    return SidebarWidgets(
        picture=picture,
        photographs=photographs,
        scenes=scenes,
        notes=notes,
        seen=seen,
        crop=Chosen(visible="hidden"),
        model=model,
        about_model=about_model,
        cancel_loading=cancel,
        likely=likely,
        settings=settings,
        **reading,
        **classes,
    )


def _classes() -> dict[str, Any]:
    any_target = Choice([], label="Any class", elem_id="target")
    with gr.Accordion("Compare with another class", open=False, elem_id="class-options"):
        any_versus = Choice(
            [],
            label="Instead of",
            info="Explain why the class above rather than this one",
            elem_id="versus",
        )
        unit = gr.Radio(
            [("Logit", "logit"), ("Probability", "probability")],
            value="logit",
            label="Score",
            elem_id="unit",
        )
        against = gr.Checkbox(
            False,
            label="Against this class",
            info="Explain what speaks against the class above",
            elem_id="against",
        )
    return {
        "target": Chosen(visible="hidden"),
        "versus": Chosen(visible="hidden"),
        "any_target": any_target,
        "any_versus": any_versus,
        "unit": unit,
        "against": against,
    }


def _picture() -> tuple[Picture, gr.Dataset, gr.Dataset]:
    picture = Picture(
        str(SAMPLES / EXAMPLES[FIRST]),
        label="Picture",
        sources=["upload", "webcam", "clipboard"],
        height=190,
        buttons=["fullscreen"],
        elem_id="picture",
    )
    photographs = _examples(picture, "photographs", SAMPLES, EXAMPLES)
    scenes = _examples(picture, "scenes", SCENES, SCENE_EXAMPLES, visible=False)
    gr.HTML(f"<style>{_thumbnails()}</style>", visible="hidden")
    return picture, photographs, scenes


def _thumbnails() -> str:
    """Styles that show each example's picture above its name."""
    return "".join(
        f"#{kind} .gallery-item:nth-of-type({place}) {{"
        f" background-image: url({picture_uri(open_picture(folder / name).image, side=96)}) }}\n"
        for kind, folder, names in (
            ("photographs", SAMPLES, EXAMPLES),
            ("scenes", SCENES, SCENE_EXAMPLES),
        )
        for place, name in enumerate(names.values(), 1)
    )


def _examples(
    picture: Picture, kind: str, folder: Path, names: Mapping[str, str], visible: bool = True
) -> gr.Dataset:
    """Pictures to choose from, by label."""
    made = gr.Examples(
        [[str(folder / name)] for name in names.values()],
        [picture],
        label="Examples",
        example_labels=list(names),
        cache_examples=False,
        elem_id=kind,
        visible=visible,
    )
    dataset: gr.Dataset = made.dataset
    return dataset


def _model() -> tuple[gr.Dropdown, gr.Markdown, gr.Button, dict[str, Any]]:
    model = gr.Dropdown(
        list(MODELS),
        value=MODELS[0],
        label="Model",
        info="A timm model name, or hf-hub:owner/name",
        allow_custom_value=True,
        elem_id="model",
    )
    about = gr.Markdown(elem_classes="ts-note", elem_id="about-model")
    cancel = gr.Button("Cancel loading", size="sm", visible=False, elem_id="cancel-loading")
    with gr.Accordion("Weights and outputs", open=False, elem_id="model-options"):
        weights = gr.Radio(
            [("Pretrained", "pretrained"), ("Random", "random")],
            value="pretrained",
            label="Weights",
            elem_id="weights",
        )
        activation = gr.Dropdown(
            [("As the model says", FOUND), *((a.label, a.key) for a in ACTIVATIONS.values())],
            value=FOUND,
            label="Activation",
            info="How its outputs are read: as classes, tags or numbers",
            elem_id="activation",
        )
        measured_in = gr.Textbox(
            "",
            label="Unit of the numbers",
            placeholder="such as years, mm, °C",
            max_length=MAX_UNIT,
            visible=False,
            elem_id="measured-in",
        )
    reading = {"weights": weights, "activation": activation, "measured_in": measured_in}
    return model, about, cancel, reading


def wire(service: Service, demo: gr.Blocks, side: SidebarWidgets, view: ViewWidgets) -> Page:
    """Connect the column; what the tabs are given."""
    # First: the events of one component run in this order, and the others take time.
    asked_at = gr.Number(0, visible="hidden", elem_id="asked-at")
    models = [side.model.change, side.weights.change, side.activation.change]
    changes = [side.picture.change, *models]
    classes = [
        side.any_target.input, side.any_versus.input, side.unit.input, side.against.input,
    ]  # fmt: skip
    _stop_work(service, [*changes, side.crop.change, side.likely.select, *classes])
    names = [*(one.name for one in fields(actions.Question)), "settings"]
    tell_changes({name: getattr(side, name) for name in names})
    _start_afresh(side, changes)
    side.activation.change(
        lambda activation: gr.Textbox(visible=activation == IDENTITY.key),
        side.activation,
        side.measured_in,
        queue=False,
        **QUIET,
    )
    _offer_examples(side)
    about: list[Any] = [getattr(side, name) for name in ABOUT]
    gr.on([one.change for one in about], None, about, None, js=ASK_JS, **AT_ONCE)
    first, other = _open_model(service, demo, side)
    explainable, opened = _predict(service, side, asked_at, first, other)
    side.target.follow(side.any_target)
    side.versus.follow(side.any_versus)
    shown: list[Any] = [side.target, side.versus]
    gr.on([one.change for one in shown], None, shown, None, js=MARK_JS, **AT_ONCE)
    known = {**vars(side), **vars(view)}
    return Page(
        service=service,
        demo=demo,
        widgets=known,
        model_opened=opened.change,
        explainable=explainable,
        target_changed=classes,
        address=Address(service, demo, known),
        asked_at=asked_at,
    )


def _start_afresh(side: SidebarWidgets, changes: list[Any]) -> None:
    """Choose the likeliest class, and of a new picture or model its own view.

    Args:
        side: the column.
        changes: events after which there is another picture or model.
    """
    classes: list[Any] = [side.target, side.versus]
    chosen = [*classes, side.crop]
    about = [getattr(side, name) for name in SUBJECT]
    gr.on(changes, None, [*chosen, *about], chosen, js=on_event("question.afresh"))
    side.crop.change(None, chosen, classes, js=on_event("question.classes"))
    side.seen.select(None, None, side.crop, js=CROP_JS, **QUIET)


def _stop_work(service: Service, triggers: list[Any]) -> None:
    """Stop what the visitor waits for, but for the loading of a model, once it is replaced.

    The browser notes the time at once and tells the server afterwards, so that other events of the
    same choice need not wait for the server.
    """

    def stop(before: float, visitor: gr.Request) -> None:
        service.tasks.cancel_all(str(visitor.session_hash), before, keep=["model"])

    chosen_at = gr.Number(0, visible="hidden")
    chosen = gr.on(triggers, None, None, chosen_at, js=CHOSEN_JS, **AT_ONCE)
    chosen.then(stop, chosen_at, None, queue=False, **AT_ONCE)


def _offer_examples(side: SidebarWidgets) -> None:
    """Offer pictures of the kind that the model knows."""

    def show(model: str) -> list[Any]:
        scenes = actions.knows_scenes(model)
        return [gr.Dataset(visible=not scenes), gr.Dataset(visible=scenes)]

    offered: list[Any] = [side.photographs, side.scenes]
    side.model.change(show, side.model, offered, queue=False, **QUIET)


def _open_model(
    service: Service, demo: gr.Blocks, side: SidebarWidgets
) -> tuple[Dependency, Dependency]:
    """Load the model when it changes; a button stops the waiting.

    Args:
        service: models and running tasks.
        demo: the whole page.
        side: the column.

    Returns:
        The events after the page's first model, and after another one.
    """
    outputs: list[Any] = [side.about_model, side.cancel_loading]

    def show(status: actions.ModelStatus) -> list[Any]:
        return [status.text, gr.Button(visible=status.loading)]

    def stopped(model: str) -> list[Any]:
        text = f"No longer waiting for {model}. Choose another model, or press Explain to wait."
        return show(actions.ModelStatus(text))

    def failed(request: actions.ModelRequest, error: TimmscopeError) -> list[Any]:
        return show(actions.ModelStatus(f"**This model cannot be used:** {error}"))

    def stop(model: str, visitor: gr.Request) -> list[Any]:
        service.tasks.cancel(session(visitor, "model"))
        return stopped(model)

    inputs = inputs_of(actions.ModelRequest, side)
    open_model = handler(
        service,
        "model",
        actions.open_model,
        inputs,
        show,
        failed,
        # Said here too: the handler's last outputs may arrive after the button's.
        on_cancel=lambda request: stopped(request.model),
    )
    event: dict[str, Any] = {
        "fn": open_model,
        "inputs": inputs.components,
        "outputs": outputs,
        "concurrency_limit": MAX_LOADS,
        **QUIET,
    }
    first: Dependency = demo.load(**event)
    changes = [side.model.change, side.weights.change, side.activation.change]
    other: Dependency = gr.on([*changes, side.measured_in.change], **event)
    side.cancel_loading.click(stop, side.model, outputs, queue=False, **QUIET)
    return first, other


def _take_row(side: SidebarWidgets) -> Dependency:
    """Take the class whose row is pressed; the event after it."""
    classes: list[Any] = [side.target, side.versus]
    picked: Dependency = side.likely.select(None, classes, classes, js=PICK_JS, **QUIET)
    return picked


def _take_classes(side: SidebarWidgets, predicted: Dependency, proposed: Chosen) -> Dependency:
    """Take the classes that a prediction proposes, unless a person has chosen others meanwhile.

    Returns:
        The event after it.
    """
    chosen: list[Any] = [side.target, side.versus]
    taken: Dependency = predicted.then(
        None,
        [proposed, *chosen],
        [*chosen, side.any_target, side.any_versus],
        js=on_event("question.predicted"),
        **QUIET,
    )
    return taken


def _predict(
    service: Service,
    side: SidebarWidgets,
    asked_at: gr.Number,
    first: Dependency,
    other: Dependency,
) -> tuple[list[Dependency], gr.State]:
    """Predict when the picture, the part seen or the model changes.

    Args:
        service: models and running tasks.
        side: the column.
        asked_at: when a person asked, filled in by the browser.
        first: the page's first model has been loaded; it is explained without waiting for it.
        other: another model has been loaded.

    Returns:
        The events after which there is something new to explain, and the model that is open.
    """
    proposed = Chosen(visible="hidden")
    outputs: list[Any] = [
        side.likely, side.any_target, side.any_versus, side.notes, side.seen, proposed,
    ]  # fmt: skip

    def show(found: actions.PredictResult) -> dict[Any, Any]:
        return {
            side.likely: found.likely,
            side.any_target: gr.Dropdown(found.classes),
            side.any_versus: gr.Dropdown([("—", NO_CLASS), *found.classes]),
            side.notes: gr.Markdown(found.notes, visible=bool(found.notes)),
            side.seen: found.seen,
            proposed: ProposedClasses(found.target, found.versus),
        }

    def failed(question: actions.Question, error: TimmscopeError) -> dict[Any, Any]:
        return show(actions.no_prediction(question, error))

    inputs = inputs_of(actions.Question, side)
    event: dict[str, Any] = {
        "fn": handler(service, "", actions.predict, inputs, show, failed, stamped=True),
        "inputs": [*inputs.components, asked_at],
        "outputs": outputs,
        "js": on_event("question.predicting", list(inputs.widgets)),
        **QUIET,
    }

    # One event for all that comes later, so that the last question is also answered last.
    loaded = gr.Number(0, visible="hidden")
    other.success(None, None, loaded, js="() => Date.now()", **QUIET)
    at_first = _take_classes(side, first.success(**event), proposed)
    later = gr.on([loaded.change, side.picture.change, side.crop.change], **event)
    changed = _take_classes(side, later, proposed)
    opened, model = gr.State(), inputs_of(actions.ModelRequest, side)
    for predicted in (at_first, changed):  # what else there is to say of a model comes after it
        predicted.then(lambda *request: request, model.components, opened, **QUIET)
    return [changed, _take_row(side)], opened

"""Explain: one method's map over the picture."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core import METHODS
from core.errors import Field, TimmscopeError
from dashboard import actions
from dashboard.actions import ExplainRequest, SaveRequest, ShareRequest
from dashboard.components import (
    DEFAULT_VIEW,
    PICKED_JS,
    Choice,
    ClassMapSource,
    Film,
    GuideDialog,
    History,
    Panels,
    WaysOut,
    on_event,
    settings_group,
)
from dashboard.state.models import MAX_LOADS
from dashboard.state.shared_pictures import DAYS
from dashboard.tabs import class_maps, stage, verdict
from dashboard.tabs.answers import (
    AnswerArea,
    answer_column,
    ask,
    cancel_on_click,
    enough_on_click,
    following,
    keep_true,
    on_way_out,
    stop_for_settings,
)
from dashboard.tabs.binding import Inputs
from dashboard.tabs.examples import EXAMPLE_FILES
from dashboard.tabs.page import AT_ONCE, QUIET, Page

TITLE = "Explain"
DEFAULT_METHOD = "gradcam"
KINDS = ("png", "svg", "npz", "json")
SAVE_JS = """(file) => {
  if (file) setTimeout(() => document.querySelector("#download-file").click(), 50);
}"""


HIDE_JS = "() => ({__type__: 'update', visible: false})"
KEPT = f"Whoever has it sees your picture; the server keeps a copy for at most {DAYS} days."


@dataclass(frozen=True)
class ExplainWidgets:
    """The tab.

    Attributes:
        method: the method's key.
        guide: every method, in a dialog.
        about: what the method is good for.
        cost: how long it takes.
        layer: its layer.
        advanced: what has the list of layers; the filmstrip has the stages among them.
        run: starts explaining.
        cancel: stops whatever the tab is doing.
        method_settings: holds the method's parameters.
        result: the map.
        effect: what the model says while a part is hidden.
        parts: the picture cut into parts that look alike.
        film: the map at each stage of the model.
        class_maps: small maps beside the likeliest classes.
        history: earlier answers.
        ways_out: hears of buttons that change a question that failed.
        enough: stops a slow method and keeps its map so far.
        summary: how far it can be believed.
        save: buttons that save the map, by kind of file.
        share: gives the address of this view.
        stop_after: how many samples an earlier answer had that comes back; the browser fills it in.
        shared_name: the name under which the server keeps the picture.
        link: the address.
        test: starts testing the map.
        found: the last verdict, for the browser to show if it is about this map.
        verdict: whether it can be trusted.
        file: the saved file, for the browser to fetch.
        code: the explanation in Python.
        command: the explanation on the command line.
        explanation: the `ExplainRequest` behind the map; None while there is none.
    """

    method: gr.Dropdown
    guide: GuideDialog
    about: gr.Markdown
    cost: gr.Markdown
    layer: Choice
    advanced: gr.Accordion
    run: gr.Button
    cancel: gr.Button
    method_settings: gr.Column
    result: Panels
    effect: gr.JSON
    parts: gr.JSON
    film: Film
    class_maps: ClassMapSource
    history: History
    ways_out: WaysOut
    enough: gr.Button
    summary: gr.Markdown
    save: Mapping[str, gr.Button]
    share: gr.Button
    stop_after: gr.Number
    shared_name: gr.Textbox
    link: gr.Textbox
    test: gr.Button
    found: gr.JSON
    verdict: Panels
    file: gr.DownloadButton
    code: gr.Code
    command: gr.Code
    explanation: gr.State


def layout() -> ExplainWidgets:
    """The answer, large, and beside it how it is asked."""
    with gr.Row(equal_height=False, elem_id="explain"):
        with gr.Column(scale=1, min_width=300):
            with answer_column("explain"):
                shown = _answer()
            history = History(elem_id="history")  # of use while the answer is not
        with gr.Column(scale=0, min_width=280, elem_id="ask", elem_classes="ts-sheet"):
            asked = _question()
    return ExplainWidgets(**asked, **shown, history=history, explanation=gr.State())


def _question() -> dict[str, Any]:
    choices = actions.method_choices()
    method = gr.Dropdown(choices, value=DEFAULT_METHOD, label="Method", elem_id="method")
    guide = GuideDialog(elem_id="method-guide")
    about = gr.Markdown(METHODS[DEFAULT_METHOD].about, elem_classes="ts-note")
    cost = gr.Markdown(elem_classes="ts-note", elem_id="cost")
    with gr.Row():
        run = gr.Button("Explain", variant="primary", elem_id="run", size="md", min_width=100)
        cancel = gr.Button("Cancel", elem_id="cancel", size="md", min_width=80)
    column = gr.Column(elem_id="method-settings")
    with gr.Accordion("Advanced", open=False, elem_id="advanced") as advanced:
        layer = Choice([], label="Layer", info="In order of depth", elem_id="layer")
    return {
        "method": method,
        "guide": guide,
        "about": about,
        "cost": cost,
        "layer": layer,
        "advanced": advanced,
        "run": run,
        "cancel": cancel,
        "method_settings": column,
    }


def _answer() -> dict[str, Any]:
    result = Panels(elem_id="result", card_width=280, columns=1, min_height=320, stage=True)
    effect = gr.JSON(visible="hidden", elem_id="effect")
    parts = gr.JSON(visible="hidden", elem_id="parts")
    enough = gr.Button("Good enough", elem_id="enough", elem_classes="ts-enough", size="sm")
    summary = gr.Markdown(elem_id="summary", elem_classes="ts-note")
    with gr.Row(elem_id="save", elem_classes="ts-when-done"):
        test = gr.Button(verdict.ASK, elem_id="test", size="sm", elem_classes="ts-badge-unasked")
        save = {
            kind: gr.Button(f"Save {kind.upper()}", size="sm", elem_id=f"save-{kind}")
            for kind in KINDS
        }
        share = gr.Button("Share", size="sm", elem_id="share")
    stop_after = gr.Number(None, precision=0, visible="hidden")
    shared_name = gr.Textbox(visible="hidden", elem_id="shared-name")
    link = gr.Textbox(
        label="Address of this view", visible=False, interactive=False, buttons=["copy"],
        elem_id="link",
    )  # fmt: skip
    found = gr.JSON(visible="hidden", elem_id="found-verdict")
    cards = Panels([], elem_id="verdict", card_width=240, columns=1, gap=8)
    film, small_maps = Film(elem_id="film"), ClassMapSource(elem_id="class-maps")
    ways_out = WaysOut(typing.get_args(Field), elem_id="ways-out")
    file = gr.DownloadButton("file", visible="hidden", elem_id="download-file")
    with gr.Accordion("Code", open=False, elem_classes="ts-code"):
        code = gr.Code(language="python", interactive=False, show_label=False)
        command = gr.Code(language="shell", interactive=False, label="On the command line")
    return {
        "result": result,
        "effect": effect,
        "parts": parts,
        "film": film,
        "class_maps": small_maps,
        "ways_out": ways_out,
        "enough": enough,
        "summary": summary,
        "save": save,
        "share": share,
        "stop_after": stop_after,
        "shared_name": shared_name,
        "link": link,
        "test": test,
        "found": found,
        "verdict": cards,
        "file": file,
        "code": code,
        "command": command,
    }


def wire(page: Page, tab: ExplainWidgets) -> None:
    """Connect the tab."""
    area = AnswerArea(
        "explain", "Explain", tab.result,
        {tab.summary: "", tab.code: "", tab.command: "", tab.explanation: None},
        tasks=("save", "test", "film", "class-maps"),
    )  # fmt: skip
    inputs = page.inputs(ExplainRequest, tab)
    chosen = [tab.method.input, tab.layer.input]
    pressed = [tab.guide.select, tab.history.select, tab.ways_out.select]
    keep_true(page, area, inputs, [*chosen, *pressed])
    stop_for_settings(page, area)
    picked = _follow_method(page, tab, inputs)
    _show_settings(page, tab)
    _explain(page, tab, area, inputs, picked)
    for kind in KINDS:
        _save(page, tab, kind)
    _share(page, tab)
    layer_chosen = stage.wire(page, tab)
    class_maps.wire(page, tab, layer_chosen)
    verdict.wire(page, tab, layer_chosen)
    cancel_on_click(page, tab.cancel, area)
    enough_on_click(page, tab.enough, area)


def _follow_method(
    page: Page, tab: ExplainWidgets, asked: Inputs[ExplainRequest]
) -> list[Dependency]:
    """Say what the method is good for, which layers it can use, and how long it takes.

    Returns:
        The events after a person has picked a method, has gone back to an earlier answer, has
        opened the page by an address that says what is asked, or has pressed a method's card.
    """

    def chosen(facts: actions.MethodFacts) -> dict[Any, Any]:
        return {
            tab.about: facts.about,
            tab.layer: gr.Dropdown(facts.layers, value=facts.layer),
            tab.advanced: gr.Accordion(visible=bool(facts.layers)),
        }

    def opened(facts: actions.MethodFacts) -> dict[Any, Any]:
        return {tab.method: gr.Dropdown(facts.methods), **chosen(facts)}

    def failed(request: actions.MethodRequest, error: TimmscopeError) -> dict[Any, Any]:
        return {
            tab.about: METHODS[request.method].about,
            tab.advanced: gr.Accordion(visible=False),
        }

    # A method that is picked starts at its own layer; else the layer chosen stays.
    inputs, afresh = (
        page.inputs(actions.MethodRequest, tab),
        page.inputs(actions.MethodRequest, tab, layer=None),
    )
    outputs = [tab.about, tab.layer, tab.advanced]
    followed = page.model_opened(
        page.handler("", actions.describe_method, inputs, opened, failed),
        inputs.components,
        [tab.method, *outputs],
        **QUIET,
    )
    picked = tab.method.input(
        page.handler("", actions.describe_method, afresh, chosen, failed),
        afresh.components,
        outputs,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=MAX_LOADS,
    )
    fields = {name: one for name, one in asked.widgets.items() if one is not tab.stop_after}
    came_back = tab.history.select(
        None, None, list(fields.values()), js=History.values_js(fields), **QUIET
    )
    guided = _guide(page, tab)
    restored = page.address.restore({"method": tab.method, "layer": tab.layer})
    describe = page.handler("", actions.describe_method, inputs, chosen, failed)
    again = [
        event(describe, inputs.components, outputs, **QUIET)
        for event in (came_back.then, guided.then, restored, _ways_out(page, tab).then)
    ]
    _estimate(page, tab, [followed, picked, *again])
    return [picked, *again]


def _guide(page: Page, tab: ExplainWidgets) -> Dependency:
    """Show every method once the dialog is opened; the event after one has been pressed."""
    inputs = page.inputs(actions.ModelRequest)
    tab.guide.submit(
        page.handler(
            "", actions.method_guide, inputs, lambda found: found,
            lambda request, error: actions.MethodGuide(note=str(error)),
        ),
        inputs.components,
        tab.guide,
        **QUIET,
    )  # fmt: skip
    return tab.guide.select(None, None, [tab.method, tab.layer], js=PICKED_JS, **QUIET)


def _ways_out(page: Page, tab: ExplainWidgets) -> Dependency:
    """Change the question as a button on a card of what went wrong says.

    Returns:
        The event after the change; the tab's own answer follows from it.
    """
    known = {**page.widgets, "method": tab.method, "layer": tab.layer}
    return on_way_out(tab.ways_out, {name: known[name] for name in typing.get_args(Field)})


def _estimate(page: Page, tab: ExplainWidgets, described: list[Dependency]) -> None:
    """Say how long the method takes, as it is set."""
    inputs = page.inputs(actions.EstimateRequest, tab)
    estimate = page.handler(
        "", actions.estimate, inputs, lambda text: text, lambda request, error: ""
    )
    triggers: list[Any] = [
        *(event.then for event in described),
        tab.layer.input,
        page.settings.change,
    ]
    for trigger in triggers:
        trigger(estimate, inputs.components, tab.cost, queue=False, **QUIET)


def _show_settings(page: Page, tab: ExplainWidgets) -> None:
    """Show the parameters of the chosen method that mean something for the model."""

    def draw(method: str, settings: actions.Settings, model: str, weights: str) -> None:
        supports = actions.supports(page.service, model, weights)
        settings_group(METHODS[method], settings, page.settings, supports)

    inputs = [tab.method, page.settings, page.widgets["model"], page.widgets["weights"]]
    triggers: list[Any] = [page.model_opened, tab.method.change]
    with tab.method_settings:
        gr.render(inputs, triggers, show_progress="hidden")(draw)


def _explain(
    page: Page,
    tab: ExplainWidgets,
    area: AnswerArea,
    inputs: Inputs[ExplainRequest],
    picked: list[Dependency],
) -> None:
    """Explain on request, and whenever there is something new to explain."""

    def show(found: actions.ExplainResult) -> dict[Any, Any]:
        return {
            tab.result: area.answer(found),
            tab.summary: found.summary,
            tab.code: found.code,
            tab.command: found.command,
            tab.explanation: None if found.answers.painting else found.request,
        }

    failed = area.on_fault("This could not be explained")
    options = ask(page, area, actions.paint, inputs, show, failed)
    page.demo.load(**{**options, "fn": _unless_addressed(page, options["fn"])})
    gr.on([tab.run.click, tab.layer.input, *page.target_changed], **options)
    for event in (*picked, *page.explainable):
        event.then(**following(options, area, inputs))


def _unless_addressed(page: Page, run: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
    """The same handler, but for pages whose address asks something else.

    A page is explained at once as it opens, before it knows which class is the likeliest.
    """

    @functools.wraps(run)
    def first(*values: Any) -> Iterator[Any]:
        (visitor,) = (one for one in values if isinstance(one, gr.Request))
        yield from [gr.skip()] if page.address.read(visitor) else run(*values)

    return first


def _save(page: Page, tab: ExplainWidgets, kind: str) -> None:
    """Write the map as the page shows it now, and have the browser fetch the file."""
    inputs = page.inputs(SaveRequest, tab, kind=kind)
    saved = tab.save[kind].click(
        page.handler(
            "save", actions.save, inputs, lambda path: path, on_cancel=lambda request: None
        ),
        inputs.components,
        tab.file,
        show_progress="minimal",
        show_progress_on=tab.result,
        trigger_mode="always_last",
    )
    saved.success(None, tab.file, None, js=SAVE_JS)


def _share(page: Page, tab: ExplainWidgets) -> None:
    """Give the address of this view; the server keeps an uploaded picture from then on."""

    def show(name: str) -> dict[Any, Any]:
        return {tab.shared_name: name, tab.link: gr.Textbox(visible=True, info=name and KEPT)}

    inputs = page.inputs(ShareRequest, tab, examples=EXAMPLE_FILES)
    kept = tab.share.click(
        page.handler("", actions.share, inputs, show),
        inputs.components,
        [tab.shared_name, tab.link],
        js=on_event("question.sharing"),
        **QUIET,
    )
    kept.success(None, tab.shared_name, tab.link, js=on_event("question.shared"), **QUIET)
    view: list[Any] = [page.widgets[name] for name in DEFAULT_VIEW]  # it is part of the address
    gr.on([one.change for one in view], None, None, tab.link, js=HIDE_JS, **AT_ONCE)

"""Compare: several methods, models or pictures side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.views.panels import empty_panel
from dashboard import actions
from dashboard.actions import (
    CompareRequest,
    CompareResult,
    RecommendRequest,
    RecommendResult,
)
from dashboard.components import Choice, Panels, Picture, WaysOut, on_event
from dashboard.state import MODELS
from dashboard.tabs.answers import (
    AnswerArea,
    answer_column,
    ask,
    cancel_on_click,
    keep_true,
    on_way_out,
)
from dashboard.tabs.page import METHODS_INFO, QUIET, Page, follow_model, layer_list

TITLE = "Compare"
DEFAULT_METHODS = ["gradcam", "layercam", "integrated_gradients", "occlusion"]
EMPTY = [empty_panel("Choose what to compare, then press Compare.")]
WAYS_OUT = {
    "compare_methods": "methods",
    "compare_layer": "layer",
    "compare_method": "method",
    "compare_models": "models",
}
"""Fields that buttons on cards of what went wrong change, and their widgets."""
RANGE_JS = on_event("shareRange", "compare-result")
SORT_JS = on_event("sorting.by", "compare-result")


@dataclass(frozen=True)
class CompareWidgets:
    """The tab.

    Attributes:
        what: what is compared: methods, models or pictures.
        of_methods: what is chosen for methods.
        of_sides: what is chosen for models and for pictures.
        methods: the methods' keys.
        layer: the layer of CAM methods.
        variant: makes a method stand beside itself with another setting.
        method: the one method on several models or pictures.
        models: the models beside the page's.
        second: the picture beside the page's.
        own_class: whether each explains its own prediction.
        colour_range: whether the maps share one range of colours.
        order: how the maps are ordered.
        run: starts comparing.
        cancel: stops whatever the tab is doing.
        recommend: asks which method to use.
        advice_column: holds the recommendation.
        advice: the method to use, and why.
        ranking: how the methods rank.
        result: the maps, and how far they agree.
        table: what each map cost.
        ways_out: hears of buttons that change what is compared.
    """

    what: gr.Radio
    of_methods: gr.Column
    of_sides: gr.Column
    methods: gr.Dropdown
    layer: Choice
    variant: VariantWidgets
    method: gr.Dropdown
    models: gr.Dropdown
    second: Picture
    own_class: gr.Radio
    colour_range: gr.Radio
    order: gr.Radio
    run: gr.Button
    cancel: gr.Button
    recommend: gr.Button
    advice_column: gr.Column
    advice: Panels
    ranking: gr.Dataframe
    result: Panels
    table: gr.Dataframe
    ways_out: WaysOut


@dataclass(frozen=True)
class VariantWidgets:
    """Adds a method again with another setting.

    Attributes:
        method: which.
        parameter: what is changed.
        value: to what.
        add: adds it.
    """

    method: gr.Dropdown
    parameter: Choice
    value: gr.Textbox
    add: gr.Button


def layout() -> CompareWidgets:
    """What is compared at the top, then which method to use, then the maps."""
    what = gr.Radio(
        [(label, key) for key, label in actions.WHAT.items()],
        value="methods",
        label="What to compare",
        elem_id="compare-what",
    )
    with gr.Column() as of_methods:
        methods, layer, variant = _methods()
    with gr.Column(visible=False) as of_sides:
        method, models, second, own_class = _sides()
    run, cancel, recommend = _buttons()
    with answer_column("recommend") as advice_column:
        advice = Panels([], elem_id="advice", card_width=320, columns=1)
        ranking = _table(
            actions.RANKING_HEADERS,
            "Symmetric relevance gain, with three ways of removing pixels",
            elem_id="ranking",
        )
    colour_range, order = _view()
    with answer_column("compare"):
        result = Panels(EMPTY, elem_id="compare-result", card_width=260, columns=4, min_height=260)
        widths = ["26%", "13%", "13%", "13%", "35%"]
        table = _table(actions.COST_HEADERS, "Cost", column_widths=widths)
    ways_out = WaysOut(WAYS_OUT, elem_id="compare-ways-out")
    return CompareWidgets(
        what, of_methods, of_sides, methods, layer, variant, method, models, second, own_class,
        colour_range, order, run, cancel, recommend, advice_column, advice, ranking, result, table,
        ways_out,
    )  # fmt: skip


def _methods() -> tuple[gr.Dropdown, Choice, VariantWidgets]:
    with gr.Row(equal_height=False):
        methods = gr.Dropdown(
            actions.method_choices(),
            value=DEFAULT_METHODS,
            multiselect=True,
            allow_custom_value=True,
            label="Methods",
            info=METHODS_INFO,
            elem_id="compare-methods",
            scale=4,
            min_width=280,
        )
        layer = layer_list(info="For CAM methods", scale=1, min_width=160)
    with (
        gr.Accordion("Add a method with another setting", open=False, elem_id="variant"),
        gr.Row(equal_height=True),
    ):
        key = DEFAULT_METHODS[0]
        choices = actions.parameter_choices(key)
        variant = VariantWidgets(
            gr.Dropdown(
                actions.method_choices(),
                value=key,
                label="Method",
                elem_id="variant-method",
                min_width=200,
            ),
            Choice(
                choices,
                value=choices[0][1],
                label="Setting (default)",
                elem_id="variant-parameter",
                min_width=200,
            ),
            gr.Textbox(label="Value", elem_id="variant-value", max_length=120, min_width=140),
            gr.Button("Add", elem_id="variant-add", scale=0, min_width=100),
        )
    return methods, layer, variant


def _sides() -> tuple[gr.Dropdown, gr.Dropdown, Picture, gr.Radio]:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            method = gr.Dropdown(
                actions.method_choices(), value="gradcam", label="Method", elem_id="compare-method"
            )
            own_class = gr.Radio(
                [("The class on the left", False), ("Each its own prediction", True)],
                value=False,
                label="Class to explain",
                elem_id="compare-class",
            )
        models = gr.Dropdown(
            [*MODELS, *(f"{name}{actions.RANDOM}" for name in MODELS)],
            multiselect=True,
            allow_custom_value=True,
            max_choices=actions.MAX_MODELS - 1,
            label="Other models",
            info="Beside the model on the left",
            elem_id="compare-models",
            min_width=280,
        )
        second = Picture(
            label="Second picture",
            sources=["upload", "clipboard"],
            height=180,
            buttons=[],
            elem_id="compare-second",
            min_width=280,
            visible=False,
        )
    return method, models, second, own_class


def _buttons() -> tuple[gr.Button, gr.Button, gr.Button]:
    with gr.Row():
        return (
            gr.Button(
                "Compare",
                variant="primary",
                elem_id="compare-run",
                size="md",
                scale=0,
                min_width=160,
            ),
            gr.Button("Cancel", size="md", scale=0, min_width=120),
            gr.Button(
                "Which method should I use?",
                elem_id="recommend",
                size="md",
                scale=0,
                min_width=270,
            ),
        )


def _view() -> tuple[gr.Radio, gr.Radio]:
    with gr.Row(elem_id="compare-view"):
        return (
            gr.Radio(
                [("Own", "own"), ("Shared", "shared")],
                value="own",
                label="Colour range",
                elem_id="colour-range",
                min_width=160,
            ),
            gr.Radio(
                [("As chosen", ""), ("Score", "score"), ("Cost", "cost")],
                value="",
                label="Order",
                info="Methods are scored by “Which method should I use?”",
                elem_id="compare-order",
                min_width=260,
            ),
        )


def _table(headers: list[str], label: str, **options: Any) -> gr.Dataframe:
    """A table of results, unseen until there are some."""
    return gr.Dataframe(
        headers=headers, interactive=False, wrap=True, visible=False, label=label, **options
    )


def wire(page: Page, tab: CompareWidgets) -> None:
    """Connect the tab."""
    hidden = gr.Dataframe(visible=False)
    maps = AnswerArea("compare", "Compare", tab.result, {tab.table: hidden}, ask="compare-run")
    advice = AnswerArea(
        "recommend",
        "Which method should I use?",
        tab.advice,
        {tab.ranking: hidden},
        ask="recommend",
    )
    follow_model(page, methods=tab.methods, layers=tab.layer)
    _offer_choices(tab)
    _add_variant(page, tab)
    _compare(page, tab, maps)
    _recommend(page, tab, advice)
    on_way_out(tab.ways_out, {name: getattr(tab, widget) for name, widget in WAYS_OUT.items()})
    tab.colour_range.change(None, tab.colour_range, None, js=RANGE_JS)
    tab.order.change(None, tab.order, None, js=SORT_JS)
    cancel_on_click(page, tab.cancel, maps, advice)


def _offer_choices(tab: CompareWidgets) -> None:
    """Show what is to be chosen for what is compared."""

    def show(what: str) -> dict[Any, Any]:
        methods = what == "methods"
        return {
            tab.of_methods: gr.Column(visible=methods),
            tab.of_sides: gr.Column(visible=not methods),
            tab.models: gr.Dropdown(visible=what == "models"),
            tab.second: gr.Image(visible=what == "pictures"),
            tab.recommend: gr.Button(visible=methods),
            tab.advice_column: gr.Column(visible=methods),
        }

    outputs: list[Any] = [
        tab.of_methods, tab.of_sides, tab.models, tab.second, tab.recommend, tab.advice_column
    ]  # fmt: skip
    tab.what.change(show, tab.what, outputs, queue=False, **QUIET)


@dataclass(frozen=True)
class _Variant:
    """A method that is to stand beside itself with another setting."""

    methods: list[str]
    method: str
    parameter: str
    value: str


def _extend(service: object, asked: _Variant, on_progress: object = None) -> list[str]:
    """The methods, with the one that is to stand beside itself."""
    return actions.add_variant(asked.methods, asked.method, asked.parameter, asked.value)


def _add_variant(page: Page, tab: CompareWidgets) -> None:
    """Offer the settings of the method, and add what was set."""

    def offer(method: str) -> gr.Dropdown:
        choices = actions.parameter_choices(method)
        return gr.Dropdown(choices, value=choices[0][1] if choices else None)

    tab.variant.method.change(
        offer, tab.variant.method, tab.variant.parameter, queue=False, **QUIET
    )

    inputs = page.inputs(_Variant, {"methods": tab.methods}, tab.variant)
    add = page.handler("", _extend, inputs, lambda methods: methods)
    gr.on(
        [tab.variant.add.click, tab.variant.value.submit],
        add,
        inputs.components,
        tab.methods,
        **QUIET,
    )


def _compare(page: Page, tab: CompareWidgets, area: AnswerArea) -> None:
    def show(found: CompareResult) -> dict[Any, Any]:
        table = gr.Dataframe(found.table, visible=bool(found.table))
        return {tab.result: area.answer(found), tab.table: table}

    inputs = page.inputs(CompareRequest, tab)
    chosen: list[Any] = [tab.methods, tab.layer, tab.what, tab.method, tab.models, tab.own_class]
    pressed = [tab.variant.add.click, tab.ways_out.select]
    replaced_by = [*(one.input for one in chosen), *pressed, tab.second.input]
    keep_true(page, area, inputs, replaced_by)
    failed = area.on_fault("This could not be compared", lambda request: request.chosen)
    asked = ("what", "methods", "layer", "method", "models", "own_class")
    restored = page.address.restore_tab("compare", {name: getattr(tab, name) for name in asked})
    gr.on([tab.run.click, restored], **ask(page, area, actions.compare, inputs, show, failed))


def _recommend(page: Page, tab: CompareWidgets, area: AnswerArea) -> None:
    def show(found: RecommendResult) -> dict[Any, Any]:
        table = gr.Dataframe(found.table, visible=bool(found.table))
        return {tab.advice: area.answer(found), tab.ranking: table}

    inputs = page.inputs(RecommendRequest, tab)
    keep_true(page, area, inputs, [tab.methods.input, tab.layer.input, tab.variant.add.click])
    failed = area.on_fault("No recommendation", lambda request: request.chosen)
    tab.recommend.click(**ask(page, area, actions.recommend, inputs, show, failed))

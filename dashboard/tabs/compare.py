"""Compare: several methods side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core.views.panels import empty_panel
from dashboard import actions
from dashboard.actions import CompareRequest, CompareResult, RecommendRequest, RecommendResult
from dashboard.components import Choice, Panels
from dashboard.tabs.answers import AnswerArea, answer_column, ask, cancel_on_click, keep_true
from dashboard.tabs.page import METHODS_INFO, QUIET, Page, follow_model

TITLE = "Compare"
DEFAULT_METHODS = ["gradcam", "layercam", "integrated_gradients", "occlusion"]
EMPTY = [empty_panel("Choose methods, then press Compare.")]


@dataclass(frozen=True)
class CompareWidgets:
    """The tab.

    Attributes:
        methods: the methods' keys.
        layer: the layer of CAM methods.
        colour_range: whether the maps share one range of colours.
        run: starts comparing.
        cancel: stops whatever the tab is doing.
        result: the maps, and how far they agree.
        table: what each method cost.
        recommend: asks which method to use.
        advice: the method to use, and why.
        ranking: how the methods rank.
    """

    methods: gr.Dropdown
    layer: Choice
    colour_range: gr.Radio
    run: gr.Button
    cancel: gr.Button
    result: Panels
    table: gr.Dataframe
    recommend: gr.Button
    advice: Panels
    ranking: gr.Dataframe


def layout() -> CompareWidgets:
    """Methods at the top, their maps below, then which one to use."""
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
        layer = Choice([], label="Layer", info="For CAM methods", scale=1, min_width=160)
        colour_range = gr.Radio(
            [("Own", "own"), ("Shared", "shared")],
            value="own",
            label="Colour range",
            elem_id="colour-range",
            scale=1,
            min_width=160,
        )
    with gr.Row():
        run = gr.Button(
            "Compare", variant="primary", elem_id="compare-run", size="md", scale=0, min_width=160
        )
        cancel = gr.Button("Cancel", size="md", scale=0, min_width=120)
    with answer_column("compare"):
        result = Panels(EMPTY, elem_id="compare-result", card_width=260, columns=4, min_height=260)
        table = gr.Dataframe(
            headers=actions.COST_HEADERS,
            interactive=False,
            wrap=True,
            visible=False,
            label="Cost",
            column_widths=["26%", "13%", "13%", "13%", "35%"],
        )
    recommend, advice, ranking = _advice()
    return CompareWidgets(
        methods, layer, colour_range, run, cancel, result, table, recommend, advice, ranking
    )


def _advice() -> tuple[gr.Button, Panels, gr.Dataframe]:
    button = gr.Button(
        "Which method should I use?", elem_id="recommend", size="sm", variant="secondary"
    )
    with answer_column("recommend"):
        advice = Panels([], elem_id="advice", card_width=320, columns=1)
        ranking = gr.Dataframe(
            headers=actions.RANKING_HEADERS,
            interactive=False,
            wrap=True,
            visible=False,
            label="Symmetric relevance gain, with three ways of removing pixels",
            elem_id="ranking",
        )
    return button, advice, ranking


def wire(page: Page, tab: CompareWidgets) -> None:
    """Connect the tab."""
    hidden = gr.Dataframe(visible=False)
    maps = AnswerArea("compare", "Compare", tab.result, {tab.table: hidden})
    advice = AnswerArea(
        "recommend", "Which method should I use?", tab.advice, {tab.ranking: hidden}
    )
    follow_model(page, methods=tab.methods, layers=tab.layer)
    compared = _compare(page, tab, maps)
    _recommend(page, tab, advice)
    nothing = {tab.advice: [], **advice.others}
    compared.then(lambda: nothing, None, advice.outputs, queue=False, **QUIET)
    cancel_on_click(page, tab.cancel, maps, advice)


def _compare(page: Page, tab: CompareWidgets, area: AnswerArea) -> Dependency:
    def show(found: CompareResult) -> dict[Any, Any]:
        table = gr.Dataframe(found.table, visible=bool(found.table))
        return {tab.result: area.answer(found), tab.table: table}

    inputs = page.inputs(CompareRequest, tab)
    keep_true(page, area, inputs, [tab.methods.input, tab.layer.input])
    failed = area.on_fault("The methods could not be compared")
    compared: Dependency = gr.on(
        [tab.run.click, tab.colour_range.input],
        api_name="compare",
        **ask(page, area, actions.compare, inputs, show, failed),
    )
    return compared


def _recommend(page: Page, tab: CompareWidgets, area: AnswerArea) -> None:
    def show(found: RecommendResult) -> dict[Any, Any]:
        table = gr.Dataframe(found.table, visible=bool(found.table))
        return {tab.advice: area.answer(found), tab.ranking: table}

    inputs = page.inputs(RecommendRequest, tab)
    keep_true(page, area, inputs, [tab.methods.input, tab.layer.input])
    failed = area.on_fault("No recommendation")
    tab.recommend.click(
        api_name="recommend", **ask(page, area, actions.recommend, inputs, show, failed)
    )

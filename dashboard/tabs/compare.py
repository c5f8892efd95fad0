"""Compare: several methods side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.inputs.batch import OnProgress
from core.views.panels import empty_panel
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice
from dashboard.handlers import working
from dashboard.sidebar import QUIET, Sidebar
from dashboard.state import Question
from dashboard.tabs.common import METHOD_CHOICES, cancelling, follow_model, keep

DEFAULT_METHODS = ["gradcam", "layercam", "integrated_gradients", "occlusion"]
EMPTY = [empty_panel("Choose methods, then press Compare.")]
RANKED = ["Method", "Gain", "From", "To", "Passes", "Remark"]
HEADERS = ["Method", "Forward", "Backward", "ms", "Remark"]


def build(side: Sidebar) -> None:
    """The tab, wired."""
    with gr.Row(equal_height=False):
        methods = gr.Dropdown(
            METHOD_CHOICES,
            value=DEFAULT_METHODS,
            multiselect=True,
            label="Methods",
            elem_id="compare-methods",
            scale=4,
            min_width=280,
        )
        layer = Choice([], label="Layer", info="For CAM methods", scale=1, min_width=160)
        ranges = gr.Radio(
            [("Own", "own"), ("Shared", "shared")],
            value="own",
            label="Colour range",
            elem_id="ranges",
            scale=1,
            min_width=160,
        )
    with gr.Row():
        run = gr.Button(
            "Compare", variant="primary", elem_id="compare-run", size="md", scale=0, min_width=160
        )
        stop = gr.Button("Cancel", size="md", scale=0, min_width=120)
    result = Panels(EMPTY, elem_id="compare-result", card_width=260, columns=4, min_height=260)
    table = gr.Dataframe(
        headers=HEADERS,
        interactive=False,
        wrap=True,
        visible=False,
        label="Cost",
        column_widths=["26%", "13%", "13%", "13%", "35%"],
    )

    take = gr.Button("Which one to take?", elem_id="recommend", size="sm", variant="secondary")
    advice = Panels([], elem_id="advice", card_width=320, columns=1)
    ranking = gr.Dataframe(
        headers=RANKED,
        interactive=False,
        wrap=True,
        visible=False,
        label="Symmetric relevance gain, over three ways of removing pixels",
        elem_id="ranking",
    )

    answered = gr.State()

    @working(side.service, "compare")
    def compare(
        question: Question,
        on_progress: OnProgress,
        methods: list[str],
        settings: dict[str, Any],
        layer: str,
        ranges: str,
    ) -> Any:
        shared = ranges == "shared"
        found = actions.compare(
            side.service, question, methods, settings, layer or None, shared, on_progress
        )
        rows = gr.Dataframe(found.table, visible=bool(found.table))
        return found.panels, rows, found.question or question

    @working(side.service, "recommend")
    def recommend(
        question: Question,
        on_progress: OnProgress,
        methods: list[str],
        settings: dict[str, Any],
        layer: str,
    ) -> Any:
        found = actions.recommend(
            side.service, question, methods, settings, layer or None, on_progress
        )
        rows = gr.Dataframe(found.table, visible=bool(found.table))
        return found.panels, rows, found.question or question

    follow_model(side, methods=methods, layers=layer)
    work = gr.on(
        [run.click, ranges.input],
        compare,
        [*side.question, methods, side.store, layer, ranges],
        [result, table, answered],
        api_name="compare",
        trigger_mode="always_last",
        show_progress_on=result,
    )
    advised = take.click(
        recommend,
        [*side.question, methods, side.store, layer],
        [advice, ranking, answered],
        api_name="recommend",
        trigger_mode="always_last",
        show_progress_on=advice,
    )
    work.then(lambda: ([], gr.Dataframe(visible=False)), None, [advice, ranking], **QUIET)
    cancelling(side, stop, ["compare", "recommend"], [work, advised])
    hidden = gr.Dataframe(visible=False)
    keep(
        side, answered, [work, advised], {result: EMPTY, table: hidden, advice: [], ranking: hidden}
    )

"""Compare: several methods side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import CancelledError
from core.views.figures import empty_panel
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice
from dashboard.sidebar import Sidebar
from dashboard.state import Question
from dashboard.tabs.work import METHOD_CHOICES, begin, cancelling, clear, follow_model

DEFAULT_METHODS = ["gradcam", "layercam", "integrated_gradients", "occlusion"]
EMPTY = [empty_panel("Choose methods, then press Compare.")]
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

    def compare(
        picture: Any,
        model: str,
        weights: str,
        target: int | str | None,
        versus: int | str | None,
        unit: str,
        methods: list[str],
        settings: dict[str, Any],
        layer: str,
        ranges: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it there
    ) -> Any:
        question = Question(picture, model, weights, target, versus, unit)
        tick = begin(side, "compare", request, progress)
        try:
            found = actions.compare(
                side.service, question, methods, settings, layer or None, ranges == "shared", tick
            )
        except CancelledError:
            return gr.skip()
        return found.panels, gr.Dataframe(found.table, visible=bool(found.table))

    follow_model(side, methods=methods, layers=layer)
    work = gr.on(
        [run.click, ranges.input],
        compare,
        [*side.question, methods, side.store, layer, ranges],
        [result, table],
        api_name="compare",
        trigger_mode="always_last",
        show_progress_on=result,
    )
    cancelling(side, stop, "compare", [work])
    clear(side, {result: EMPTY, table: gr.Dataframe(visible=False)})

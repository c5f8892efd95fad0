"""Metrics: does the map deserve trust, next to maps that know nothing?"""

from __future__ import annotations

from typing import Any

import gradio as gr

from core import METRICS
from core.asking import OnProgress
from core.metrics.base import Given
from core.views.panels import empty_panel
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice, settings
from dashboard.handlers import working
from dashboard.sidebar import Sidebar
from dashboard.state import Question
from dashboard.tabs.work import METHOD_CHOICES, cancelling, follow_model, keep

MEASURED = {key: cls for key, cls in METRICS.items() if Given.TRUTH not in cls.needs}
"""Metrics that ask for nothing but the picture and the model."""
EMPTY = [empty_panel("Choose methods and metrics, then press Measure.")]


def build(side: Sidebar) -> None:
    """The tab, wired."""
    with gr.Row(equal_height=False):
        methods = gr.Dropdown(
            METHOD_CHOICES,
            value=["gradcam", "layercam"],
            multiselect=True,
            label="Methods",
            elem_id="metric-methods",
            scale=3,
            min_width=280,
        )
        metrics = gr.CheckboxGroup(
            [(cls.label, key) for key, cls in MEASURED.items()],
            value=["deletion", "insertion", "srg"],
            label="Metrics",
            elem_id="metrics",
            scale=2,
            min_width=220,
        )
        layer = Choice([], label="Layer", info="For CAM methods", scale=1, min_width=160)
    with gr.Accordion("Settings", open=False), gr.Row():
        for key, cls in MEASURED.items():
            with gr.Column(min_width=240):
                gr.Markdown(f"**{cls.label}**")
                settings({key: cls}, side.store, key)
    with gr.Row():
        run = gr.Button(
            "Measure", variant="primary", elem_id="metric-run", size="md", scale=0, min_width=160
        )
        stop = gr.Button("Cancel", size="md", scale=0, min_width=120)
    result = Panels(EMPTY, elem_id="metric-result", card_width=320, columns=2, min_height=260)
    table = gr.Dataframe(interactive=False, visible=False, label="Scores", elem_id="scores")

    answered = gr.State()

    @working(side.service, "metrics")
    def measure(
        question: Question,
        on_progress: OnProgress,
        methods: list[str],
        metrics: list[str],
        settings: dict[str, Any],
        layer: str,
    ) -> Any:
        found = actions.measure(
            side.service, question, methods, metrics, settings, layer or None, on_progress
        )
        rows = gr.Dataframe(found.table, headers=found.headers, visible=bool(found.table))
        return found.panels, rows, found.question or question

    follow_model(side, methods=methods, layers=layer)
    work = run.click(
        measure,
        [*side.question, methods, metrics, side.store, layer],
        [result, table, answered],
        api_name="measure",
        trigger_mode="always_last",
        show_progress_on=result,
    )
    cancelling(side, stop, ["metrics"], [work])
    keep(side, answered, [work], {result: EMPTY, table: gr.Dataframe(visible=False)})

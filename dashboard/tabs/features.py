"""Features: what a layer's channels respond to, and where attention heads look."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.inputs.batch import OnProgress
from core.views.panels import empty_panel
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice
from dashboard.handlers import working
from dashboard.sidebar import Sidebar
from dashboard.state import Question
from dashboard.tabs.common import cancelling, follow_model, keep

EMPTY = [empty_panel("Choose a layer, then press Show.")]


def build(side: Sidebar) -> None:
    """The tab, wired."""
    gr.Markdown("### Feature maps")
    with gr.Row(equal_height=False):
        layer = Choice([], label="Layer", elem_id="feature-layer", min_width=200)
        by = gr.Radio(
            [("Activation", "activation"), ("Variance", "variance")],
            value="activation",
            label="Strongest by",
            min_width=200,
        )
        top = gr.Slider(4, 64, 16, step=4, label="How many", min_width=160)
        run = gr.Button(
            "Show", variant="primary", elem_id="feature-run", size="md", scale=0, min_width=120
        )
        stop = gr.Button("Cancel", size="md", scale=0, min_width=100)
    statistics = gr.Markdown(elem_id="feature-statistics", elem_classes="ts-note")
    maps = Panels(EMPTY, elem_id="feature-maps", card_width=120, columns=8, gap=16, min_height=140)
    gr.Markdown("### Attention heads")
    with gr.Row(equal_height=False):
        attention_layer = Choice([], label="Attention layer", elem_id="attention-layer")
        query = gr.Textbox(
            "auto",
            label="Query token",
            info="auto, class, mean, or a patch's number",
            elem_id="attention-query",
        )
        batch = gr.Button(
            "Show", variant="primary", elem_id="attention-run", size="md", scale=0, min_width=120
        )
        halt = gr.Button("Cancel", size="md", scale=0, min_width=100)
    said = gr.Markdown(elem_classes="ts-note")
    heads = Panels(
        EMPTY, elem_id="attention-maps", card_width=150, columns=6, gap=16, min_height=140
    )

    maps_of, heads_of = gr.State(), gr.State()

    @working(side.service, "features")
    def features(
        question: Question, on_progress: OnProgress, layer: str, top: int, by: str
    ) -> tuple[Any, ...]:
        found = actions.features(side.service, question, layer or None, top, by, on_progress)
        return found.panels, found.summary, found.question or question

    @working(side.service, "attention")
    def attention(
        question: Question, on_progress: OnProgress, layer: str, query: str
    ) -> tuple[Any, ...]:
        found = actions.attention(side.service, question, layer or None, query, on_progress)
        return found.panels, found.summary, found.question or question

    follow_model(side, layers=layer, attention=attention_layer)
    featured = gr.on(
        [run.click, layer.input, by.input, top.release],
        features,
        [*side.question, layer, top, by],
        [maps, statistics, maps_of],
        api_name="features",
        trigger_mode="always_last",
        show_progress_on=maps,
    )
    attended = gr.on(
        [batch.click, attention_layer.input, query.submit],
        attention,
        [*side.question, attention_layer, query],
        [heads, said, heads_of],
        api_name="attention",
        trigger_mode="always_last",
        show_progress_on=heads,
    )
    cancelling(side, stop, ["features"], [featured])
    cancelling(side, halt, ["attention"], [attended])
    keep(side, maps_of, [featured], {maps: EMPTY, statistics: ""}, whatever_target=True)
    keep(side, heads_of, [attended], {heads: EMPTY, said: ""}, whatever_target=True)

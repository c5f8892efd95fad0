"""Features: what a layer's channels respond to, and where attention heads look."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.views.figures import empty_panel
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice
from dashboard.sidebar import Sidebar
from dashboard.state import Question
from dashboard.tabs.work import clear, follow_model

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
        look = gr.Button(
            "Show", variant="primary", elem_id="attention-run", size="md", scale=0, min_width=120
        )
    said = gr.Markdown(elem_classes="ts-note")
    heads = Panels(
        EMPTY, elem_id="attention-maps", card_width=150, columns=6, gap=16, min_height=140
    )

    def features(
        picture: Any,
        model: str,
        weights: str,
        target: int | str | None,
        versus: int | str | None,
        unit: str,
        layer: str,
        top: int,
        by: str,
    ) -> tuple[Any, str]:
        question = Question(picture, model, weights, target, versus, unit)
        found = actions.features(side.service, question, layer or None, top, by)
        return found.panels, found.summary

    def attention(
        picture: Any,
        model: str,
        weights: str,
        target: int | str | None,
        versus: int | str | None,
        unit: str,
        layer: str,
        query: str,
    ) -> tuple[Any, str]:
        question = Question(picture, model, weights, target, versus, unit)
        found = actions.attention(side.service, question, layer or None, query)
        return found.panels, found.summary

    follow_model(side, layers=layer, attention=attention_layer)
    gr.on(
        [run.click, layer.input, by.input, top.release],
        features,
        [*side.question, layer, top, by],
        [maps, statistics],
        api_name="features",
        trigger_mode="always_last",
    )
    gr.on(
        [look.click, attention_layer.input, query.submit],
        attention,
        [*side.question, attention_layer, query],
        [heads, said],
        api_name="attention",
        trigger_mode="always_last",
    )
    clear(side, {maps: EMPTY, statistics: "", heads: EMPTY, said: ""})

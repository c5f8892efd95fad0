"""Features: the feature maps of a layer, and the attention of its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.views.panels import empty_panel
from dashboard import actions
from dashboard.actions import AttentionRequest, FeatureRequest, FeatureResult
from dashboard.components import Choice, Panels
from dashboard.tabs.answers import AnswerArea, answer_column, ask, cancel_on_click, keep_true
from dashboard.tabs.page import Page, follow_model

TITLE = "Features"
EMPTY = [empty_panel("Choose a layer, then press Show.")]


@dataclass(frozen=True)
class MapWidgets:
    """The upper half: feature maps.

    Attributes:
        layer: whose channels.
        by: how channels are ranked.
        top: how many channels.
        run: starts the work.
        cancel: stops it.
        summary: statistics of the layer.
        maps: the channels.
    """

    layer: Choice
    by: gr.Radio
    top: gr.Slider
    run: gr.Button
    cancel: gr.Button
    summary: gr.Markdown
    maps: Panels


@dataclass(frozen=True)
class HeadWidgets:
    """The lower half: attention heads.

    Attributes:
        layer: whose heads.
        query: whose attention.
        run: starts the work.
        cancel: stops it.
        summary: what the maps show.
        maps: the heads.
    """

    layer: Choice
    query: gr.Textbox
    run: gr.Button
    cancel: gr.Button
    summary: gr.Markdown
    maps: Panels


@dataclass(frozen=True)
class FeatureWidgets:
    """The tab.

    Attributes:
        channels: the upper half.
        heads: the lower half.
    """

    channels: MapWidgets
    heads: HeadWidgets


def layout() -> FeatureWidgets:
    """Feature maps above, attention heads below."""
    return FeatureWidgets(_channels(), _heads())


def _channels() -> MapWidgets:
    gr.Markdown("### Feature maps")
    with gr.Row(equal_height=False):
        layer = Choice([], label="Layer", elem_id="feature-layer", min_width=200)
        by = gr.Radio(
            [("Activation", "activation"), ("Variance", "variance")],
            value="activation",
            label="Rank channels by",
            min_width=200,
        )
        top = gr.Slider(4, 64, 16, step=4, label="Number of channels", min_width=160)
        run, cancel = _buttons("feature-run")
    with answer_column("features"):
        summary = gr.Markdown(elem_id="feature-statistics", elem_classes="ts-note")
        maps = Panels(
            EMPTY, elem_id="feature-maps", card_width=120, columns=8, gap=16, min_height=140
        )
    return MapWidgets(layer, by, top, run, cancel, summary, maps)


def _heads() -> HeadWidgets:
    gr.Markdown("### Attention heads")
    with gr.Row(equal_height=False):
        layer = Choice([], label="Attention layer", elem_id="attention-layer")
        query = gr.Textbox(
            "auto",
            label="Query token",
            info="auto, class, mean, or the number of a patch",
            elem_id="attention-query",
        )
        run, cancel = _buttons("attention-run")
    with answer_column("attention"):
        summary = gr.Markdown(elem_classes="ts-note")
        maps = Panels(
            EMPTY, elem_id="attention-maps", card_width=150, columns=6, gap=16, min_height=140
        )
    return HeadWidgets(layer, query, run, cancel, summary, maps)


def _buttons(run_id: str) -> tuple[gr.Button, gr.Button]:
    run = gr.Button("Show", variant="primary", elem_id=run_id, size="md", scale=0, min_width=120)
    return run, gr.Button("Cancel", size="md", scale=0, min_width=100)


def wire(page: Page, tab: FeatureWidgets) -> None:
    """Connect the tab."""
    follow_model(page, layers=tab.channels.layer, attention=tab.heads.layer)
    _wire_channels(page, tab.channels)
    _wire_heads(page, tab.heads)


def _wire_channels(page: Page, half: MapWidgets) -> None:
    area = AnswerArea("features", "Show", half.maps, {half.summary: ""})
    inputs = page.inputs(FeatureRequest, half)
    chosen = [half.layer.input, half.by.input, half.top.release]
    keep_true(page, area, inputs, chosen)
    failed = area.on_fault("No feature maps")
    options = ask(page, area, actions.features, inputs, _show(half, area), failed)
    gr.on([half.run.click, *chosen], api_name="features", **options)
    cancel_on_click(page, half.cancel, area)


def _wire_heads(page: Page, half: HeadWidgets) -> None:
    area = AnswerArea("attention", "Show", half.maps, {half.summary: ""})
    inputs = page.inputs(AttentionRequest, half)
    chosen = [half.layer.input, half.query.submit]
    keep_true(page, area, inputs, chosen)
    failed = area.on_fault("No attention maps")
    options = ask(page, area, actions.attention, inputs, _show(half, area), failed)
    gr.on([half.run.click, *chosen], api_name="attention", **options)
    cancel_on_click(page, half.cancel, area)


def _show(half: MapWidgets | HeadWidgets, area: AnswerArea) -> Any:
    def show(found: FeatureResult) -> dict[Any, Any]:
        return {half.maps: area.answer(found), half.summary: found.summary}

    return show

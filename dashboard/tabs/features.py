"""Features: what a patch of the picture is like and attends to, and what channels respond to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.views.panels import empty_panel
from dashboard import actions
from dashboard.actions import FeatureRequest, FeatureResult, PatchRequest, PatchResult
from dashboard.components import Choice, Gallery, PatchAnswer, PatchStage
from dashboard.tabs.answers import AnswerArea, answer_column, ask, cancel_on_click, keep_true
from dashboard.tabs.page import Page, follow_model, layer_list

TITLE = "Features"
UNTOUCHED = [
    empty_panel("Press Show, then click the picture: every layer tells what a patch is like.")
]
EMPTY = [empty_panel("Choose a layer, then press Show.")]


@dataclass(frozen=True)
class PatchWidgets:
    """The upper half: a patch that is touched.

    Attributes:
        run: starts the work.
        cancel: stops it.
        stage: the picture, and what the patch is like and attends to.
    """

    run: gr.Button
    cancel: gr.Button
    stage: PatchStage


@dataclass(frozen=True)
class MapWidgets:
    """The lower half: feature maps.

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
    maps: Gallery


@dataclass(frozen=True)
class FeatureWidgets:
    """The tab.

    Attributes:
        patches: the upper half.
        channels: the lower half.
    """

    patches: PatchWidgets
    channels: MapWidgets


def layout() -> FeatureWidgets:
    """A touched patch above, feature maps below."""
    return FeatureWidgets(_patches(), _channels())


def _patches() -> PatchWidgets:
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            gr.Markdown(
                "### Touch a patch\nClick the picture to see which other parts look similar to "
                "the model, and where a transformer looks from there, in any layer.",
                elem_classes="ts-note",
            )
        run, cancel = _buttons("patch-run")
    with answer_column("patches"):
        stage = PatchStage(UNTOUCHED, elem_id="patches", card_width=280, columns=1, min_height=140)
    return PatchWidgets(run, cancel, stage)


def _channels() -> MapWidgets:
    gr.Markdown("### Feature maps")
    with gr.Row(equal_height=False):
        layer = layer_list(elem_id="feature-layer", min_width=200)
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
        maps = Gallery(
            EMPTY, elem_id="feature-maps", card_width=150, columns=4, gap=16, min_height=140
        )
    return MapWidgets(layer, by, top, run, cancel, summary, maps)


def _buttons(run_id: str) -> tuple[gr.Button, gr.Button]:
    run = gr.Button("Show", variant="primary", elem_id=run_id, size="md", scale=0, min_width=120)
    return run, gr.Button("Cancel", size="md", scale=0, min_width=100)


def wire(page: Page, tab: FeatureWidgets) -> None:
    """Connect the tab."""
    follow_model(page, layers=tab.channels.layer)
    _wire_patches(page, tab.patches)
    _wire_channels(page, tab.channels)


def _wire_patches(page: Page, half: PatchWidgets) -> None:
    def show(found: PatchResult) -> dict[Any, Any]:
        touch = PatchAnswer(found.panels, area.name, found.answers, touch=found.touch)
        return {half.stage: touch}

    area = AnswerArea("patches", "Show", half.stage, ask="patch-run")
    inputs = page.inputs(PatchRequest, half)
    keep_true(page, area, inputs, [])
    failed = area.on_fault("No patches")
    options = ask(page, area, actions.patches, inputs, show, failed)
    half.run.click(**options)
    cancel_on_click(page, half.cancel, area)


def _wire_channels(page: Page, half: MapWidgets) -> None:
    def show(found: FeatureResult) -> dict[Any, Any]:
        return {half.maps: area.answer(found), half.summary: found.summary}

    area = AnswerArea("features", "Show", half.maps, {half.summary: ""}, ask="feature-run")
    inputs = page.inputs(FeatureRequest, half)
    chosen = [half.layer.input, half.by.input, half.top.release]
    keep_true(page, area, inputs, chosen)
    failed = area.on_fault("No feature maps")
    options = ask(page, area, actions.features, inputs, show, failed)
    shown = {"layer": half.layer, "by": half.by, "top": half.top}
    gr.on([half.run.click, *chosen, page.address.restore_tab("features", shown)], **options)
    cancel_on_click(page, half.cancel, area)

"""How maps look: colormap, opacity, fading. Changes ask nothing of the server."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from core.views.colour import COLORMAPS
from dashboard.components.panels import DEFAULT_VIEW, VIEW_JS


def build() -> list[Component]:
    """The bar above the tabs, wired: colormap, alpha, fade."""
    with gr.Row(elem_id="view", equal_height=True):
        colormap = gr.Dropdown(
            ["auto", *COLORMAPS],
            value=DEFAULT_VIEW["colormap"],
            label="Colormap",
            elem_id="colormap",
            min_width=150,
        )
        alpha = gr.Slider(
            0,
            1,
            DEFAULT_VIEW["alpha"],
            step=0.01,
            label="Opacity (alpha)",
            elem_id="alpha",
            min_width=180,
            scale=2,
        )
        fade = gr.Checkbox(
            DEFAULT_VIEW["fade"],
            label="Fade weak evidence",
            info="Let the picture show where the map is near zero",
            elem_id="fade",
            min_width=240,
        )
    view: list[Component] = [colormap, alpha, fade]
    gr.on([colormap.change, alpha.change, fade.change], None, view, js=VIEW_JS)
    return view

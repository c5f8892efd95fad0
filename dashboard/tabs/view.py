"""How maps look: colormap, opacity, weak values, smoothing. Changes ask nothing of the server."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from core.views.colour import COLORMAPS
from dashboard.components import DEFAULT_VIEW, VIEW_JS


@dataclass(frozen=True)
class ViewWidgets:
    """The bar above the tabs.

    Attributes:
        colormap: of all maps.
        alpha: opacity of the maps, 0 to 1.
        fade: whether the picture shows where a map is near zero.
        smooth: whether maps that differ from pixel to pixel are smoothed.
    """

    colormap: gr.Dropdown
    alpha: gr.Slider
    fade: gr.Checkbox
    smooth: gr.Checkbox


def layout() -> ViewWidgets:
    """The bar above the tabs."""
    with gr.Row(elem_id="view", equal_height=True):
        return ViewWidgets(
            colormap=gr.Dropdown(
                ["auto", *COLORMAPS],
                value=DEFAULT_VIEW["colormap"],
                label="Colormap",
                elem_id="colormap",
                min_width=150,
            ),
            alpha=gr.Slider(
                0,
                1,
                DEFAULT_VIEW["alpha"],
                step=0.01,
                label="Opacity",
                elem_id="alpha",
                min_width=180,
                scale=2,
            ),
            fade=gr.Checkbox(
                DEFAULT_VIEW["fade"],
                label="Hide weak values",
                info="Show the picture where the map is near zero or lowest",
                elem_id="fade",
                min_width=240,
            ),
            smooth=gr.Checkbox(
                DEFAULT_VIEW["smooth"],
                label="Smooth grainy maps",
                info="Average maps that differ from pixel to pixel",
                elem_id="smooth",
                min_width=240,
            ),
        )


def wire(view: ViewWidgets) -> None:
    """Redraw every map on the page when the view changes."""
    changes = [view.colormap.change, view.alpha.change, view.fade.change, view.smooth.change]
    gr.on(changes, None, [view.colormap, view.alpha, view.fade, view.smooth], js=VIEW_JS)

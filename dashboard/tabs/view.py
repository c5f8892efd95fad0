"""How maps look: colours, opacity, what is shown. Changes ask nothing of the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.views.colour import COLORMAPS
from dashboard.components import DEFAULT_VIEW, VIEW_JS


@dataclass(frozen=True)
class ViewWidgets:
    """The bar at the top.

    Attributes:
        colormap: of all maps.
        alpha: opacity of the maps, 0 to 1.
        strongest: per cent of each map that is shown, the strongest values.
        fade: whether the picture shows where a map is near zero.
        smooth: whether maps that differ from pixel to pixel are smoothed.
    """

    colormap: gr.Dropdown
    alpha: gr.Slider
    strongest: gr.Slider
    fade: gr.Checkbox
    smooth: gr.Checkbox


def layout() -> ViewWidgets:
    """The bar at the top."""
    with gr.Row(elem_id="view", equal_height=True):
        return ViewWidgets(
            colormap=gr.Dropdown(
                ["auto", *COLORMAPS],
                value=DEFAULT_VIEW["colormap"],
                label="Colormap",
                elem_id="colormap",
                min_width=110,
            ),
            alpha=gr.Slider(
                0,
                1,
                DEFAULT_VIEW["alpha"],
                step=0.01,
                label="Opacity",
                buttons=[],
                elem_id="alpha",
                min_width=120,
            ),
            strongest=gr.Slider(
                1,
                100,
                DEFAULT_VIEW["strongest"],
                step=1,
                label="Strongest %",
                buttons=[],
                elem_id="strongest",
                min_width=120,
            ),
            fade=gr.Checkbox(
                DEFAULT_VIEW["fade"], label="Hide weak values", elem_id="fade", min_width=130
            ),
            smooth=gr.Checkbox(
                DEFAULT_VIEW["smooth"], label="Smooth grainy maps", elem_id="smooth", min_width=130
            ),
        )


def wire(view: ViewWidgets) -> None:
    """Redraw every map on the page when the view changes."""
    widgets: list[Any] = [view.colormap, view.alpha, view.strongest, view.fade, view.smooth]
    gr.on([one.change for one in widgets], None, widgets, js=VIEW_JS)

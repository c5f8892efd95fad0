"""CurveStage: one of several charts of curves, large, with a cursor on the curve inspected."""

from __future__ import annotations

from dashboard.components.panels import Panels
from dashboard.components.scripts import on_event

POINT_JS = on_event("curves.point")
"""For ``gr.on(..., fn=None, inputs=[curve, share], js=POINT_JS)``: the curve as "method metric" and
the place of the cursor in per cent. Makes no request."""


class CurveStage(Panels):
    """Charts of which the one with the inspected curve is shown.

    The ``meta`` of a figure's layout is its metric, that of a line its method.
    """

    scripts = ("curves.js",)
    mount = "window.timmscope.curves.mount(element, props, trigger, watch); // 'select'"

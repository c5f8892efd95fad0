"""Every method as a card, family by family: what it is good for and how long it takes."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from dashboard.actions.method_guide import MethodGuide
from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import on_event, source, tags

TEMPLATE = """<button type="button" class="ts-guide-open">All methods …</button>
<dialog class="ts-guide" aria-label="All methods"></dialog>"""
MOUNT_JS = "window.timmscope.methodGuide.mount(element, props, trigger, watch);"

PICKED_JS = on_event("methodGuide.picked")
"""For event ``select`` without a function: gives the key of the method pressed, and no layer."""


class GuideDialog(OwnHTML):
    """A button, and the methods in a dialog; its value is a `MethodGuide`.

    Event ``submit``: the dialog has been opened, and asks for its value. Event ``select``, with
    `PICKED_JS`: a method has been pressed.

    Args:
        kwargs: as for ``gr.HTML``.
    """

    def __init__(self, value: MethodGuide | None = None, **kwargs: Any) -> None:
        super().__init__(
            value=value,
            html_template=TEMPLATE,
            css_template=source("method_guide.css"),
            js_on_load=MOUNT_JS,
            head=tags("values.js", "thumbnail.js", "method_guide.js"),
            apply_default_css=False,
            **kwargs,
        )

    def postprocess(self, value: MethodGuide | str | None) -> str | None:
        """The methods as JSON for the page."""
        if value is None or isinstance(value, str):
            return value
        # The time makes it another value each time the dialog is opened, which draws it anew.
        told = {**dataclasses.asdict(value), "at": time.time_ns()}
        return json.dumps(told).replace("<", "\\u003c")

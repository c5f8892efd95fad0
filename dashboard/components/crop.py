"""The picture with a box around what the model sees, which a person can drag and resize."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from dashboard.actions.predict import SeenPart
from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import on_event, source, tags

MOUNT_JS = "window.timmscope.crop.mount(element, props, trigger, watch); // fires 'select'"

CROP_JS = on_event("crop.chosen")
"""For event ``select`` without a function: gives the part chosen, None for the model's own."""

TEMPLATE = """<div class="ts-crop">
  <div class="ts-crop-stage" hidden>
    <img class="ts-crop-picture" alt="" draggable="false">
    <div class="ts-crop-box" tabindex="0" role="application"
      aria-label="What the model sees. Arrow keys move the box, with Shift they resize it.">
      <i data-corner="0 0"></i><i data-corner="1 0"></i><i data-corner="0 1"></i><i data-corner="1 1"></i>
    </div>
  </div>
  <p class="ts-crop-said" aria-live="polite"></p>
  <div class="ts-crop-bar">
    <button type="button" data-crop="" aria-pressed="true">Model's own view</button>
    <button type="button" data-crop="whole" aria-pressed="false">Whole picture</button>
  </div>
</div>"""  # noqa: E501  markup


class CropBox(OwnHTML):
    """A `SeenPart`, whose box a person can drag; its aspect is that of the model's input.

    Event ``select``, with `CROP_JS` and no function, gives the part chosen.

    Args:
        kwargs: as for ``gr.HTML``.
    """

    def __init__(self, value: SeenPart | None = None, **kwargs: Any) -> None:
        super().__init__(
            value=value,
            html_template=TEMPLATE,
            css_template=source("crop.css"),
            js_on_load=MOUNT_JS,
            head=tags("crop.js"),
            apply_default_css=False,
            **kwargs,
        )

    def postprocess(self, value: SeenPart | str | None) -> str | None:
        """The part as JSON for the page."""
        return json.dumps(asdict(value)) if isinstance(value, SeenPart) else value

"""Drawing: evidence that is marked on the picture, with boxes and a brush."""

from __future__ import annotations

import json
from typing import Any

from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import source, tags

TEMPLATE = """<div class="ts-draw">
  <p class="ts-draw-said" aria-live="polite"></p>
  <button type="button" class="ts-draw-remove" hidden>Remove</button>
  <dialog class="ts-draw-dialog" aria-labelledby="ts-draw-title">
    <h3 id="ts-draw-title">Where is the evidence?</h3>
    <p class="ts-draw-hint">Drag a box around it, or paint over it. With the keyboard: Enter adds a
    box, arrows move it, with Shift resize it.</p>
    <div class="ts-draw-bar">
      <button type="button" class="ts-draw-box" aria-pressed="true">Box</button>
      <button type="button" class="ts-draw-brush" aria-pressed="false">Brush</button>
      <label hidden>Size <input type="range" class="ts-draw-size" min="1" max="20" value="5"></label>
      <button type="button" class="ts-draw-undo">Undo</button>
      <button type="button" class="ts-draw-clear">Clear</button>
      <span class="ts-draw-gap"></span>
      <button type="button" class="ts-draw-cancel">Cancel</button>
      <button type="button" class="ts-draw-done">Done</button>
    </div>
    <div class="ts-draw-stage">
      <img class="ts-draw-picture" alt="The picture">
      <canvas class="ts-draw-canvas" tabindex="0" role="application" aria-label="Marks on the picture"></canvas>
    </div>
  </dialog>
</div>"""  # noqa: E501  markup


class Drawing(OwnHTML):
    """Marks on a picture. Give it a `canvas` to open; it hands on the marks as JSON.

    Args:
        kwargs: as for ``gr.HTML``, such as ``elem_id``.
    """

    def __init__(self, value: Any = None, **kwargs: Any) -> None:
        super().__init__(
            value=value,
            html_template=TEMPLATE,
            css_template=source("drawing.css"),
            js_on_load=(
                "window.timmscope.drawing(element.querySelector('.ts-draw'), props, watch);"
                " // 'change'"
            ),
            head=tags("drawing.js"),
            apply_default_css=False,
            **kwargs,
        )

    def postprocess(self, value: Any) -> str:
        """A canvas as JSON for the page; None forgets all marks."""
        return "" if value is None else json.dumps(value)

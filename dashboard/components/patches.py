"""PatchStage: a picture whose patches are touched, and what each is like and attends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.views.panels import Panel
from dashboard.components.panels import Answer, Panels, encode

TEMPLATE = """<div class="ts-patch ts-empty">
  <div class="ts-patch-picture" role="application" aria-label="Picture"><div class="ts-grid"></div></div>
  <div class="ts-patch-side">
    <div class="ts-patch-kinds" role="group" aria-label="What is shown"></div>
    <div>
      <label class="ts-patch-label" for="ts-patch-layer">Layer <output class="ts-patch-name"></output></label>
      <input class="ts-patch-slider" id="ts-patch-layer" type="range" min="0" max="0" value="0">
      <div class="ts-patch-layers" role="group" aria-label="Layers, early to late"></div>
    </div>
    <div hidden>
      <div class="ts-patch-label">Head</div>
      <div class="ts-patch-heads" role="group" aria-label="Heads"></div>
    </div>
    <div class="ts-patch-tokens" role="group" aria-label="Tokens that stand for no part of the picture" hidden></div>
    <p class="ts-patch-words" aria-live="polite"></p>
    <ul class="ts-patch-notes"></ul>
  </div>
</div>"""  # noqa: E501  markup


@dataclass(frozen=True)
class PatchAnswer(Answer):
    """An answer with what every layer says of every pair of patches.

    Attributes:
        touch: as `dashboard.actions.patches` packs it for `patch.js`; None if there is none.
    """

    touch: Mapping[str, Any] | None = field(default=None)


class PatchStage(Panels):
    """A picture to be touched; patches, layers and heads are drawn in the browser.

    Its value is a `PatchAnswer` with one panel, the picture under an empty map; or panels that say
    why there is nothing to touch.
    """

    template = TEMPLATE
    styles = ("panels.css", "patch.css")
    scripts = ("patch.js",)
    mount = (
        "window.timmscope.patch(element.querySelector('.ts-patch'), props, trigger, watch);"
        " // 'select'"
    )

    def postprocess(self, value: Sequence[Panel] | Answer | str | None) -> str | None:
        """The panels and the packed values as JSON for the page."""
        if isinstance(value, PatchAnswer) and value.touch is not None:
            return encode(value.panels, value, touch=value.touch)
        return super().postprocess(value)

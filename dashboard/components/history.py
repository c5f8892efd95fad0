"""The last answers of the stage, as thumbnails that bring them back, and two side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import on_event, source, tags

TEMPLATE = """<div class="ts-history"></div>
<section class="ts-pair" aria-label="Two answers side by side" hidden>
  <button type="button" class="ts-pair-close">Close</button>
  <div class="ts-grid"></div>
</section>"""

MOUNT_JS = "window.timmscope.history.mount(element, props, trigger); // fires 'select'"


class History(OwnHTML):
    """The last twenty answers, kept by the browser while the page is open.

    Two that are ticked are shown side by side below, from what the browser has.

    Event ``select``, with `values_js` and no function, gives back the fields of the one pressed.

    Args:
        kwargs: as for ``gr.HTML``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            value="",
            html_template=TEMPLATE,
            css_template="--ts-card-width: 260px; --ts-gap: 24px;\n"
            + source("panels.css")
            + source("history.css"),
            js_on_load=MOUNT_JS,
            head=tags("focus.js", "answers.js", "values.js", "thumbnail.js", "history.js"),
            apply_default_css=False,
            **kwargs,
        )

    @staticmethod
    def values_js(names: Iterable[str]) -> str:
        """JavaScript that gives the values of these fields of the answer pressed."""
        return on_event("history.values", list(names))

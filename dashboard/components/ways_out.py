"""The buttons by which a person changes a question that failed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import on_event, tags

MOUNT_JS = "window.timmscope.waysOut.mount(%s, trigger); // fires 'select'"


class WaysOut(OwnHTML):
    """Hears of every such button that changes its fields, on whatever card; it shows nothing.

    Event ``select``, with `values_js` and no function, gives the fields as the button sets them.

    Args:
        names: of the fields.
        kwargs: as for ``gr.HTML``.
    """

    def __init__(self, names: Iterable[str], **kwargs: Any) -> None:
        super().__init__(
            value="",
            html_template="",
            js_on_load=MOUNT_JS % json.dumps(list(names)),
            head=tags("ways_out.js"),
            apply_default_css=False,
            visible="hidden",
            **kwargs,
        )

    @staticmethod
    def values_js(names: Iterable[str]) -> str:
        """JavaScript for an event whose inputs and outputs are fields of these names."""
        return on_event("waysOut.values", list(names))

"""The most likely classes as rows: one that is pressed is explained, or compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dashboard.actions.predict import ClassList
from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import on_event, source, tags

MOUNT_JS = "window.timmscope.classes.mount(element, props, trigger, watch); // fires 'select'"

PICK_JS = on_event("classes.pick")
"""For `ClassRows.select`, whose inputs and outputs are the class to explain and the one to compare
it with."""
MARK_JS = on_event("classes.mark")
"""For events whose inputs are the class to explain and the class to compare with: shows both."""


class ClassRows(OwnHTML):
    """The most likely classes, each a button, with a second one to compare with it.

    Its value is a `ClassList`. Event ``select``, with `PICK_JS` and no function, gives the classes
    after a press.

    Args:
        value: the classes to start with.
        examples: bytes of each picture that the page's address may name, by file name.
        kwargs: as for ``gr.HTML``.
    """

    def __init__(
        self,
        value: ClassList | None = None,
        *,
        examples: Mapping[str, int] = MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            value=value,
            elem_classes="ts-classes",
            html_template='<div class="ts-class-list"></div>',
            css_template=source("classes.css"),
            js_on_load=MOUNT_JS,
            head=tags("focus.js", "values.js", "thumbnail.js", "classes.js"),
            apply_default_css=False,
            examples=dict(examples),
            **kwargs,
        )

    def postprocess(self, value: ClassList | str | None) -> str | None:
        """The classes as JSON for the page."""
        if value is None or isinstance(value, str):
            return value
        # Gradio warns of script tags, which a label may well contain.
        return json.dumps(value.to_json()).replace("<", "\\u003c")

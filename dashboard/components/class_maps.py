"""Small maps beside the likeliest classes, drawn in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.components.own_html import OwnHTML
from dashboard.components.panels import Answer, encode
from dashboard.components.scripts import tags

MOUNT_JS = "window.timmscope.classMaps.mount(element, props, trigger, watch); // fires 'submit'"


@dataclass(frozen=True)
class ClassMapAnswer(Answer):
    """An answer with a panel for each of several classes.

    Attributes:
        classes: the classes, one for each panel.
        note: how the maps were made, or why there are none.
    """

    classes: Sequence[int] = ()
    note: str = ""


class ClassMapSource(OwnHTML):
    """The maps that `ClassRows` shows; it shows nothing itself. Its value is a `ClassMapAnswer`.

    Event ``submit``: a person wants small maps, and there are none that answer what the page asks.

    Args:
        kwargs: as for ``gr.HTML``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            value=None,
            html_template="",
            js_on_load=MOUNT_JS,
            head=tags("answers.js", "values.js", "thumbnail.js", "class_maps.js"),
            apply_default_css=False,
            visible="hidden",
            **kwargs,
        )

    def postprocess(self, value: ClassMapAnswer | str | None) -> str | None:
        """The panels as JSON for the page, with the picture once."""
        if value is None or isinstance(value, str):
            return value
        return encode(value.panels, value, classes=list(value.classes), note=value.note)

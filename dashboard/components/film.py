"""The filmstrip: one method's map at each stage of the model, from early to late."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from dashboard.actions.film import FilmResult
from dashboard.components.own_html import OwnHTML
from dashboard.components.panels import encode
from dashboard.components.scripts import on_event, source, tags

MOUNT_JS = "window.timmscope.film.mount(element, props, trigger, watch); // fires 'select'"

CHOSEN_JS = on_event("film.chosen")
"""For event ``select`` without a function: gives the layer and its summary, code and command."""


class Film(OwnHTML):
    """Thumbnails of a `FilmResult`; the one that is pressed goes onto the stage without a request.

    Args:
        kwargs: as for ``gr.HTML``.
    """

    def __init__(self, value: FilmResult | None = None, **kwargs: Any) -> None:
        super().__init__(
            value=value,
            elem_classes="ts-film",
            html_template='<div class="ts-film-strip"></div>',
            css_template=source("film.css"),
            js_on_load=MOUNT_JS,
            head=tags("answers.js", "values.js", "thumbnail.js", "film.js"),
            apply_default_css=False,
            **kwargs,
        )

    def postprocess(self, value: FilmResult | str | None) -> str | None:
        """The maps as JSON for the page, with the picture once."""
        if value is None or isinstance(value, str):
            return value
        if not value.stops:
            return None
        panels = encode([stop.panel for stop in value.stops])
        stops = [
            {k: v for k, v in dataclasses.asdict(stop).items() if k != "panel"}
            for stop in value.stops
        ]
        about = {"chosen": value.chosen, "about": value.about}
        text = json.dumps({"panels": panels, "stops": stops, **about})
        return text.replace("<", "\\u003c")  # Gradio warns of script tags

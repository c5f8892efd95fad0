"""Panels: cards of Plotly figures whose colours change without asking the server.

Gradio's own plot component redraws from nothing on every update (zoom is lost) and cannot tell
Python where a person clicked. This one keeps a figure per card, sends maps as packed integers,
and keeps the view (colormap, opacity, fading, smoothing) in the page.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from core.views.colour import ALPHA, COLORMAPS, default_colormap, stops
from core.views.panels import Panel
from dashboard.actions import Answers
from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import PLOTLY, source, tags

SCRIPTS = (
    "values.js",
    "ways_out.js",
    "panels.js",
    "focus.js",
    "answers.js",
    "question.js",
    "settings.js",
    "lists.js",
    "hide_tool.js",
    "stage.js",
    "verdict.js",
    "linked.js",
    "sorting.js",
    "switches.js",
    "verdict.js",
    PLOTLY,
)
"""What the page runs, in order; the largest last."""

DEFAULT_VIEW: dict[str, Any] = {
    "colormap": "auto",
    "alpha": ALPHA,
    "strongest": 100,
    "fade": False,
    "smooth": True,
}
"""How maps look until a reader says otherwise. Weak values are not hidden: where the picture shows
through, a dark one swallows negative values."""

VIEW_JS = """(colormap, alpha, strongest, fade, smooth = true) => {
  const timmscope = (window.timmscope ??= {});
  timmscope.state = { ...timmscope.state, colormap, alpha, strongest, fade, smooth };
  timmscope.redraw?.();
  timmscope.stage?.refresh();
  timmscope.film?.redraw();
  timmscope.classMaps?.redraw();
  timmscope.question?.tell();
}"""
"""For events whose inputs are colormap, alpha, strongest, fade and smooth: the view of every map on
the page, those that arrive later included. Makes no request."""

MOUNT_JS = "window.timmscope.mount(element, props, trigger, watch); // fires 'select'"


@dataclass(frozen=True)
class Answer:
    """Panels that answer a question, which `answers.js` compares with what the page asks.

    Attributes:
        panels: the panels.
        area: the name of the area that shows them.
        answers: which question.
        asked_at: the stamp that the question came with.
    """

    panels: Sequence[Panel]
    area: str
    answers: Answers
    asked_at: float = 0.0


class Panels(OwnHTML):
    """A responsive grid of cards, one per panel of `core.views`.

    Its value is a list of panels. Cards keep their place in the list: an update redraws the figure
    in place, and zoom stays while the picture is the same.

    Event ``select`` (take it with ``event: gr.EventData``): a click on a map gives ``event.panel``
    (position in the list), ``event.x`` and ``event.y`` (picture pixels) and ``event.value`` (of the
    map, there); a click on a bar or a line gives ``event.panel`` and ``event.index``.

    Args:
        value: panels to start with.
        card_width: least width of a card in CSS pixels; as many as fit share a row.
        columns: most cards in a row; None for no bound.
        gap: space between cards in CSS pixels.
        view: colormap, alpha, strongest, fade and smooth before a reader changes them; the page has
            one view, and the first component to appear sets it.
        stage: whether the first card is the page's stage, which has tools on the picture: another
            view of it, and hiding parts. Then event ``submit`` asks what the model says while a
            part is hidden: ``event.mask`` (a `dashboard.actions.hide.Mask` as a mapping),
            ``event.keep_only`` and ``event.baseline``. Event ``edit`` asks for the picture's parts
            that look alike.
        kwargs: as for ``gr.HTML``, such as ``min_height``, ``elem_id`` or ``visible``.

    Attributes:
        template: the markup, with a place for the cards.
        styles: names of style sheets.
        scripts: names of further scripts.
        mount: what runs in the browser once the component is there.
    """

    template = '<div class="ts-grid"></div>'
    styles: tuple[str, ...] = ("panels.css",)
    scripts: tuple[str, ...] = ()
    mount = MOUNT_JS

    def __init__(
        self,
        value: Sequence[Panel] | str | None = None,
        *,
        card_width: int = 320,
        columns: int | None = None,
        gap: int = 24,
        view: dict[str, Any] | None = None,
        stage: bool = False,
        **kwargs: Any,
    ) -> None:
        share = f"(100cqw - {gap * (columns - 1)}px) / {columns}" if columns else "0px"
        super().__init__(
            value=value,
            elem_classes="ts-panels",
            html_template=self.template,
            css_template=(
                f"--ts-card-width: max({card_width}px, {share}); --ts-gap: {gap}px;\n"
                + "".join(map(source, self.styles))
                + (source("stage.css") if stage else "")
            ),
            js_on_load=self.mount,
            head=tags(*SCRIPTS, *self.scripts),
            apply_default_css=False,
            colormaps=json.dumps(_colormaps()),  # text: the browser copies it with every event
            view={**DEFAULT_VIEW, **(view or {})},
            stage=stage,
            **kwargs,
        )

    def postprocess(self, value: Sequence[Panel] | Answer | str | None) -> str | None:
        """The panels as JSON for the page; text that is JSON already passes."""
        if isinstance(value, Answer):
            return encode(value.panels, value)
        return value if value is None or isinstance(value, str) else encode(value)


def encode(panels: Sequence[Panel], answer: Answer | None = None, **more: Any) -> str:
    """Panels as JSON in which each picture stands once, however many maps lie over it.

    Args:
        panels: the panels.
        answer: what they answer, if the page keeps that true.
        **more: what else the browser needs, by name.

    Raises:
        ValueError: a number is not finite.
    """
    pictures: list[str] = []
    about = answer and {
        "area": answer.area, "asked_at": answer.asked_at, **dataclasses.asdict(answer.answers)
    }  # fmt: skip
    shared = [_shared(panel, pictures) for panel in panels]
    text = json.dumps(
        {"panels": shared, "pictures": pictures, "answer": about, **more},
        allow_nan=False,
        separators=(",", ":"),
    )
    # Gradio warns of script tags, which plain text may well contain.
    return text.replace("<", "\\u003c")


def _shared(panel: Panel, pictures: list[str]) -> dict[str, Any]:
    figure = panel["figure"]
    if "images" not in figure["layout"]:
        return {**panel}
    images = [{**image, "source": _place(image["source"], pictures)}
              for image in figure["layout"]["images"]]  # fmt: skip
    return {**panel, "figure": {**figure, "layout": {**figure["layout"], "images": images}}}


def _place(picture: str, pictures: list[str]) -> int:
    if picture not in pictures:
        pictures.append(picture)
    return pictures.index(picture)


@cache
def _colormaps() -> dict[str, Any]:
    """Every colormap over both kinds of range; "auto" has each range's default."""
    ranges = {"signed": True, "unsigned": False}
    return {
        "auto": {k: stops(default_colormap(signed), signed) for k, signed in ranges.items()},
        **{n: {k: stops(n, signed) for k, signed in ranges.items()} for n in COLORMAPS},
    }

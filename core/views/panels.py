"""Panels: plain dictionaries that any page with plotly.js can draw.

A panel contains data, no markup. Its title and caption are meant for ``textContent``. Text inside a
figure is escaped here, because plotly.js interprets some tags. Axes over a picture are in pixels of
the original picture: pixel (x, y) extends from x - 0.5 to x + 0.5, so the coordinates of its centre
are integers.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Json = dict[str, Any]
Tone = Literal["", "error", "good", "doubtful", "bad", "unasked"]
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', sans-serif"


class Smoothing(TypedDict):
    """How a map that is drawn smoothed looks, and how it looks as it is.

    Attributes:
        z: local means of the map, packed, that are drawn instead of its values.
        unsmoothed: what replaces parts of the trace while the map is drawn as it is: its range of
            colours and its colour bar.
        caption: the caption while the map is drawn as it is.
    """

    z: Mapping[str, Any]
    unsmoothed: Json
    caption: str


class SharedRange(TypedDict):
    """How a map looks in one range of colours with others.

    Attributes:
        signed: whether the range has negative and positive values.
        drawn: what replaces parts of the trace: its range of colours and its colour bar.
        unsmoothed: the same, for a smoothed map while it is drawn as it is.
    """

    signed: bool
    drawn: Json
    unsmoothed: Json


class Alternative(TypedDict):
    """One of several charts that share a card.

    Attributes:
        label: one or two words for the switch.
        title: the card's title while this chart is shown.
        caption: the caption while it is shown.
        figure: Plotly's ``data`` and ``layout``.
    """

    label: str
    title: str
    caption: str
    figure: Json


class WayOutButton(TypedDict):
    """A button by which a person changes a question that failed; see `core.errors.WayOut`.

    Attributes:
        field: what it changes.
        value: the new value; empty if names are only taken off a list.
        text: what stands on it.
        ask: the id of the page's button that asks again.
        replaces: of a list, the names that the value takes the place of.
    """

    field: str
    value: str | int
    text: str
    ask: str
    replaces: Sequence[str]


class Panel(TypedDict):
    """One card of results.

    Attributes:
        title: a few words of plain text.
        method: what stands beside the title, such as the method of an explanation; may be empty.
        words: what the figure shows, in a sentence or two of plain text; may be empty.
        caption: one or two sentences of plain text.
        figure: Plotly's ``data`` and ``layout``; both are empty if there is nothing to draw. The
            ``z`` of a map is packed, see `pack`.
        tone: how the card is coloured: "error" if there is no result; "good", "doubtful", "bad" or
            "unasked" (not tested) for the result of a test; "" for other cards.
        map: whether the figure is a map whose colours can be changed on the page.
        seen: how much of its picture a model sees, in words; empty for all of it.
        signed: whether the map has positive and negative values.
        smoothing: of a map that is drawn smoothed; None for other figures.
        shared: of a map beside others, how it looks in the range of colours of them all; None for
            other figures.
        aspect: height divided by width of the plotting area; 0 if `height` is given.
        height: height of the figure in CSS pixels; 0 if `aspect` is given.
        margin: total width and total height of the margins of the figure, in CSS pixels.
        linked: names the picture that the figure lies over, where the page links the panels of one
            picture: what is pointed at or zoomed in one is so in all. Empty for other figures.
        name: what the card shows, for `scores`; empty for cards that keep their place.
        ranks: numbers by which the page can order named cards: "cost", or "score".
        scores: the scores of other cards, by their name.
        alternatives: charts among which the card switches; the figure is the first of them.
        ways_out: of a card that says why there is no result, changes that help, as buttons.
    """

    title: str
    method: str
    words: str
    caption: str
    figure: Json
    tone: Tone
    map: bool
    seen: str
    signed: bool
    smoothing: Smoothing | None
    shared: SharedRange | None
    aspect: float
    height: int
    margin: tuple[int, int]
    linked: str
    name: str
    ranks: Mapping[str, float]
    scores: Mapping[str, float]
    alternatives: Sequence[Alternative]
    ways_out: Sequence[WayOutButton]


def error_panel(title: str, reason: str) -> Panel:
    """A card with the reason why there is no result."""
    return finding_panel(title, reason, "error")


def finding_panel(title: str, text: str, tone: Tone) -> Panel:
    """A card with the result of a test, coloured by its tone."""
    found = panel(title, text, [], {})
    found["tone"] = tone
    return found


def empty_panel(message: str) -> Panel:
    """A card that says what to do when there is no result yet."""
    return panel("", message, [], {})


def panel(
    title: str,
    caption: str,
    data: list[Json],
    layout: Json,
    *,
    map: bool = False,
    signed: bool = False,
    aspect: float = 0.0,
    height: int = 0,
) -> Panel:
    """Builds a card; see `Panel` for the arguments."""
    margin = layout.get("margin", {"l": 0, "r": 0, "t": 0, "b": 0})
    return {
        "title": str(title),
        "method": "",
        "words": "",
        "caption": str(caption),
        "figure": {"data": data, "layout": layout},
        "tone": "",
        "map": map,
        "seen": "",
        "signed": signed,
        "smoothing": None,
        "shared": None,
        "aspect": aspect,
        "height": height,
        "margin": (margin["l"] + margin["r"], margin["t"] + margin["b"]),
        "linked": "",
        "name": "",
        "ranks": {},
        "scores": {},
        "alternatives": [],
        "ways_out": [],
    }


def switch_panel(charts: Mapping[str, Panel]) -> Panel:
    """Charts of one size in one card, with a switch between them.

    Args:
        charts: by the label of each in the switch; the first is shown at the start.
    """
    shown = next(iter(charts.values())).copy()
    shown["alternatives"] = [
        {"label": label, "title": one["title"], "caption": one["caption"], "figure": one["figure"]}
        for label, one in charts.items()
    ]
    return shown


def plain(text: object) -> str:
    """Escapes text so that plotly.js shows tags as text."""
    return html.escape(str(text), quote=False)


def layout_of(margin: Mapping[str, int]) -> Json:
    """The layout that all figures share, with margins in CSS pixels."""
    clear = "rgba(0,0,0,0)"
    return {
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"family": FONT, "size": 12},
        "margin": dict(margin) | {"pad": 0},
        "hoverlabel": {
            "bgcolor": "rgba(17,24,39,0.94)",
            "bordercolor": clear,
            "font": {"family": FONT, "size": 12, "color": "#ffffff"},
            "align": "left",
        },
    }

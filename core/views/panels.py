"""Results as panels: plain dictionaries that any page with plotly.js can draw.

A panel is data, never markup. Its title and caption are meant for ``textContent``; text inside a
figure, where plotly.js reads a few tags, is escaped here. Axes over a picture count the original
picture's pixels: pixel (x, y) covers x - 0.5 to x + 0.5, so its centre has whole coordinates.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

Json = dict[str, Any]
Tone = Literal["", "error", "good", "doubtful", "bad", "unasked"]
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', sans-serif"


class Panel(TypedDict):
    """One card of results.

    Attributes:
        title: a few words, plain text.
        caption: a sentence or two, plain text.
        figure: Plotly's ``data`` and ``layout``; both empty where there is nothing to draw. The
            ``z`` of a map is packed, see `pack`.
        tone: "error" for the reason why there is no result; how a finding speaks.
        map: whether the figure is a map whose colours a reader may change.
        signed: whether the map has values on both sides of zero.
        aspect: height over width of the plotting area; 0 where `height` rules.
        height: height of the figure in CSS pixels; 0 where `aspect` rules.
        margin: CSS pixels that the figure keeps around its plotting area: (across, down).
    """

    title: str
    caption: str
    figure: Json
    tone: Tone
    map: bool
    signed: bool
    aspect: float
    height: int
    margin: tuple[int, int]


def error_panel(title: str, reason: str) -> Panel:
    """The reason why there is no result where there would have been one."""
    return finding_panel(title, reason, "error")


def finding_panel(title: str, text: str, tone: Tone) -> Panel:
    """What a test found, in words and in colour."""
    found = panel(title, text, [], {})
    found["tone"] = tone
    return found


def empty_panel(message: str) -> Panel:
    """What to do next, where there is nothing to show yet."""
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
    """A card of these parts; see `Panel`."""
    margin = layout.get("margin", {"l": 0, "r": 0, "t": 0, "b": 0})
    return {
        "title": str(title),
        "caption": str(caption),
        "figure": {"data": data, "layout": layout},
        "tone": "",
        "map": map,
        "signed": signed,
        "aspect": aspect,
        "height": height,
        "margin": (margin["l"] + margin["r"], margin["t"] + margin["b"]),
    }


def plain(text: object) -> str:
    """Text that plotly.js shows as it is, tags and all."""
    return html.escape(str(text), quote=False)


def layout_of(margin: Mapping[str, int]) -> Json:
    """What all figures have in common, with these margins in CSS pixels."""
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

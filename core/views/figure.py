"""A map as a figure that explains itself: title, picture, colour scale with numbers, caption.

The same figure is drawn as pixels, with Pillow and its own font, and as SVG, whose text is text.
Lengths are in CSS pixels; a PNG has `RESOLUTION` pixels for each.
"""

from __future__ import annotations

import base64
import io
import re
import unicodedata
import xml.etree.ElementTree as ET
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.views.colour import Limits, colourise, default_colormap, is_diverging, stops
from core.views.maps import bar_numbers

RESOLUTION = 2
"""Pixels of a PNG for each CSS pixel, so that it is sharp on a dense screen and in print."""
SIDE = 720
"""Longer side of the picture in a figure, in CSS pixels."""
NARROWEST = 420
"""Least width of what stands above and below the picture."""
MARGIN, GAP, BAR = 24, 12, 12
TITLE, SMALL = 20, 13
"""Sizes of the text."""
LONGEST = 1000
"""Most characters of a title or a caption that are drawn."""
INK, GREY = "#111827", "#4b5563"
PLAIN = {
    "≤": "<=", "≥": ">=", "×": "x", "÷": "/", "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-",
    "→": "->", "←": "<-", "≈": "~", "≠": "!=", "µ": "u", "μ": "u", "\u00ad": "",
    "ß": "ss", "þ": "th", "Þ": "Th", "ð": "d", "Ð": "D", "ı": "i", "€": "EUR", "£": "GBP",
}  # fmt: skip
"""What stands for characters that the font of a PNG lacks."""
LATIN = re.compile(r"LATIN (SMALL|CAPITAL) (?:LETTER|LIGATURE) ([A-Z]{1,2})(?: WITH .*)?")
"""Names of Latin letters: their case, and the letter without its marks."""
FORBIDDEN = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML may hold."""


@dataclass(frozen=True, slots=True)
class FigureText:
    """What stands around a map.

    Attributes:
        title: the question that the map answers.
        caption: how it was made, in a sentence or two.
        unit: of the values; empty if they have none.
        ends: what the low and the high end of a scale with both signs speak for.
    """

    title: str
    caption: str
    unit: str = ""
    ends: tuple[str, str] = ("against it", "for it")


@dataclass(frozen=True, slots=True)
class ColourScale:
    """The colours of a map.

    Attributes:
        values: (H, W) what is coloured; it says whether the map goes beyond the range.
        limits: lowest and highest value with a colour of their own.
        colormap: name of a colormap, or "auto" for the default of the range.
    """

    values: NDArray[np.float32]
    limits: Limits
    colormap: str = "auto"

    @property
    def signed(self) -> bool:
        """Whether zero lies within the range."""
        return is_diverging(self.limits)

    @property
    def name(self) -> str:
        """The name of the colormap."""
        return default_colormap(self.signed) if self.colormap == "auto" else self.colormap

    def ends(self, text: FigureText) -> tuple[str, str]:
        """What the two ends mean, in words."""
        if self.signed:
            return text.ends
        return ("much", "little") if self.limits[1] <= 0 else ("little", "much")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text: `x` is its start, middle or end, `y` its baseline."""

    text: str
    x: float
    y: float
    size: int
    anchor: str = "start"
    colour: str = GREY


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Where everything stands; boxes are (left, top, width, height)."""

    size: tuple[int, int]
    picture: tuple[int, int, int, int]
    bar: tuple[int, int, int, int]
    lines: Sequence[_Line]


def figure_png(overlaid: Image.Image, scale: ColourScale, text: FigureText) -> Image.Image:
    """The figure as pixels, `RESOLUTION` times the size that it is meant to be shown at.

    Args:
        overlaid: the map over its picture.
        scale: the colours of the map.
        text: what stands around it. Characters that Pillow's font lacks are replaced.
    """
    sheet = _laid_out(overlaid.size, scale, text)
    canvas = Image.new("RGB", _dense(sheet.size), "white")
    left, top, *size = sheet.picture
    picture = overlaid.convert("RGB").resize(_dense(size), Image.Resampling.LANCZOS)
    canvas.paste(picture, _dense((left, top)))
    left, top, *size = sheet.bar
    width, height = _dense(size)
    shades = np.linspace(*scale.limits, width)[None].repeat(height, 0)
    bar = Image.fromarray(colourise(shades, scale.name, scale.limits))
    canvas.paste(bar, _dense((left, top)))
    pen = ImageDraw.Draw(canvas)
    for line in sheet.lines:
        font, x = _font(line.size * RESOLUTION), line.x * RESOLUTION
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[line.anchor] * font.getlength(line.text)
        pen.text((x - shift, line.y * RESOLUTION), line.text, line.colour, font, anchor="ls")
    return canvas


def figure_svg(
    overlaid: Image.Image, scale: ColourScale, text: FigureText, request: str = ""
) -> str:
    """The figure as SVG: the picture is embedded, all text is text, nothing is fetched or run.

    Args:
        overlaid: the map over its picture.
        scale: the colours of the map.
        text: what stands around it.
        request: what the file answers; see `core.export.request_of`.
    """
    sheet = _laid_out(overlaid.size, scale, text, plain=False)
    width, height = sheet.size
    root = ET.Element("svg", {
        "xmlns": "http://www.w3.org/2000/svg", "width": str(width), "height": str(height),
        "viewBox": f"0 0 {width} {height}", "role": "img",
        **({"data-request": _legal(request)} if request else {}),
        "font-family": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif",
    })  # fmt: skip
    ET.SubElement(root, "title").text = _legal(text.title)
    ET.SubElement(root, "desc").text = _legal(text.caption)
    gradient = ET.SubElement(ET.SubElement(root, "defs"), "linearGradient", {"id": "scale"})
    for at, (red, green, blue), _ in stops(scale.name, scale.signed):
        colour = f"rgb({red},{green},{blue})"
        ET.SubElement(gradient, "stop", {"offset": f"{at:g}", "stop-color": colour})
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    ET.SubElement(root, "image", {**_box(sheet.picture), "href": _embedded(overlaid)})
    ET.SubElement(root, "rect", {**_box(sheet.bar), "fill": "url(#scale)"})
    for line in sheet.lines:
        ET.SubElement(root, "text", {
            "x": f"{line.x:g}", "y": f"{line.y:g}", "font-size": str(line.size),
            "text-anchor": line.anchor, "fill": line.colour,
        }).text = _legal(line.text)  # fmt: skip
    return ET.tostring(root, encoding="unicode") + "\n"


def _laid_out(
    size: tuple[int, int], scale: ColourScale, text: FigureText, plain: bool = True
) -> _Sheet:
    """Places everything, from top to bottom.

    Args:
        size: width and height of the picture, in any unit.
        scale: the colours.
        text: what stands around the picture.
        plain: whether characters that Pillow's font lacks are replaced.
    """
    shown = _plain if plain else str
    ratio = SIDE / max(size)
    width, height = (max(1, round(side * ratio)) for side in size)
    room = max(width, NARROWEST)
    right, centre, y = MARGIN + room, MARGIN + room / 2, float(MARGIN)
    lines: list[_Line] = []

    def write(words: str, points: int, colour: str) -> None:
        nonlocal y
        for part in _wrapped(shown(words), points, room):
            y += points * 1.3
            lines.append(_Line(part, MARGIN, y, points, colour=colour))

    write(text.title[:LONGEST], TITLE, INK)
    picture = (MARGIN + (room - width) // 2, round(y) + GAP, width, height)
    bar = (MARGIN, picture[1] + height + GAP, room, BAR)
    y = bar[1] + BAR + 1.3 * SMALL
    low, middle, high = bar_numbers(scale.values, scale.limits)
    first, last = scale.ends(text)
    for start, mid, end in ((low, f"{middle} {text.unit}".strip(), high), (first, "", last)):
        row = ((start, MARGIN, "start"), (mid, centre, "middle"), (end, right, "end"))
        lines += [_Line(shown(one), x, y, SMALL, at) for one, x, at in row if one]
        y += 1.3 * SMALL
    write(text.caption[:LONGEST], SMALL, GREY)
    return _Sheet((room + 2 * MARGIN, round(y) + MARGIN), picture, bar, lines)


def _wrapped(text: str, size: int, room: float) -> Iterator[str]:
    """Lines of text that fit; a word that is too long for one is cut."""
    font, line = _font(size), ""
    for word in text.split():
        while font.getlength(word) > room:
            fits = max(
                1,
                bisect_right(range(1, len(word) + 1), room, key=lambda n: font.getlength(word[:n])),
            )
            yield from filter(None, [line, word[:fits]])
            line, word = "", word[fits:]
        longer = f"{line} {word}".strip()
        if font.getlength(longer) > room:
            yield line
            longer = word
        line = longer
    if line:
        yield line


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _plain(text: str) -> str:
    """The text in characters that Pillow's font has; nothing is left out.

    Latin letters lose their accents; what has no likeness in the font stands as its code.

    >>> _plain("café, Łódź, Straße: ≥ ½ · 中")
    'cafe, Lodz, Strasse: >= 1⁄2 · [U+4E2D]'
    """
    return "".join(map(_drawable, text))


@cache
def _drawable(character: str) -> str:
    if character.isspace():
        return " "
    if _has(character) or unicodedata.combining(character):
        return character if _has(character) else ""  # an accent that stands by itself
    if character in PLAIN:
        return PLAIN[character]
    if letter := LATIN.fullmatch(unicodedata.name(character, "")):
        return letter[2].lower() if letter[1] == "SMALL" else letter[2]
    parts = [one for one in unicodedata.normalize("NFKD", character) if one != character]
    return "".join(map(_drawable, parts)) or f"[U+{ord(character):04X}]"


def _has(character: str) -> bool:
    missing = bytes(_font(SMALL).getmask("\ue000"))
    return bytes(_font(SMALL).getmask(character)) != missing


def _legal(text: str) -> str:
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def _dense(lengths: Sequence[int]) -> tuple[int, int]:
    across, down = lengths
    return across * RESOLUTION, down * RESOLUTION


def _box(box: tuple[int, int, int, int]) -> dict[str, str]:
    return dict(zip(("x", "y", "width", "height"), map(str, box), strict=True))


def _embedded(picture: Image.Image) -> str:
    """The picture as a data URI, at the resolution of a PNG at most."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE * RESOLUTION,) * 2, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

"""Results in a notebook: maps over their pictures, and HTML in place of text.

All text is escaped. Pictures are part of the HTML, so that it needs neither files nor a network.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import importlib
import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from core.errors import TimmscopeError
from core.result import Result, in_short, shown_fields
from core.types import Attribution, Comparison, Prediction, Score, ShownPicture
from core.views.colour import ALPHA, Limits, colourise, default_colormap, finite, is_diverging
from core.views.colour import overlay as drawn_over
from core.views.display import display_limits, drawn, smoothing_text
from core.views.panels import plain

MOST = 8
"""The most pictures, rows or maps that the HTML of one result shows."""
SMALL = 240
"""Longest side of a picture in HTML, in pixels."""


# -- pictures -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """Where a map lies on a picture of any size; see `core.views.colour.MapGeometry`.

    Attributes:
        picture: height and width of the picture, pixels.
        box: left, top, right, bottom of the part that the model saw, in its pixels.
        whole: whether the model saw the whole picture.
    """

    picture: tuple[int, int]
    box: tuple[float, float, float, float]
    whole: bool


def overlay(
    attribution: Attribution,
    image: int = 0,
    *,
    colormap: str = "auto",
    alpha: float = ALPHA,
    fade: bool = False,
    size: int | None = None,
    picture: Image.Image | None = None,
    limits: Limits | None = None,
    smooth: bool = True,
) -> Image.Image:
    """A map over its picture, in the colours of the page and of saved files.

    Args:
        attribution: the maps.
        image: which of its images.
        colormap: name of a colormap, or "auto" for the default of the map.
        alpha: opacity of the map, from 0 to 1.
        fade: whether weak values are transparent.
        size: longest side of the result in pixels; None for that of the picture, or of the copy
            that the attribution keeps, at most 1024.
        picture: the picture itself, to be drawn on instead of the copy that the attribution keeps;
            it must be upright, as it was when it was explained.
        limits: colour range; None for that of the map.
        smooth: whether a grainy map is drawn smoothed; see `core.views.display`.

    Returns:
        An RGB picture with the proportions of the original. The part that the model saw is outlined
        if it is not the whole.

    Raises:
        TimmscopeError: there is no such image, the attribution knows no picture, the picture given
            has other proportions, or an option is out of range.
        UnknownNameError: there is no such colormap.
    """
    which = _checked(attribution, image)
    if not attribution.pictures:
        raise TimmscopeError(
            "this attribution knows no picture; compute it with an Explainer, or draw it with "
            "`overlay` of the package's views.colour"
        )
    if not 0 <= alpha <= 1:
        raise TimmscopeError(f"alpha is {alpha:g}; give a number from 0 to 1")
    shown = attribution.pictures[which]
    ground = _ground(shown, size, picture)
    across = ground.width / shown.picture[1]
    down = ground.height / shown.picture[0]
    left, top, right, bottom = shown.box
    box = left * across, top * down, right * across, bottom * down
    return drawn_over(
        ground,
        drawn(attribution[which].upsampled(shown.input)[0].numpy(), smooth),
        Placed((ground.height, ground.width), box, shown.whole),
        colormap,
        alpha,
        fade,
        limits=limits or display_limits(attribution.values[which].numpy(), smooth=smooth),
        side=max(ground.size),
    )


def overlays(
    comparison: Comparison, image: int = 0, *, shared: bool = False, **options: Any
) -> dict[str, Image.Image]:
    """The map of each method over the picture, by the configuration's name.

    Args:
        comparison: the methods' answers.
        image: which picture.
        shared: whether all maps have one range of colours.
        **options: those of `overlay`.
    """
    results = comparison.results
    if shared and results:
        maps = (one.values[_checked(one, image)].numpy() for one in results.values())
        options["limits"] = display_limits(*maps, smooth=options.get("smooth", True))
    return {name: overlay(one, image, **options) for name, one in results.items()}


def show(picture: Image.Image) -> None:
    """Display a picture: below the cell of a notebook, otherwise in a window of the system."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is None:
        picture.show()
        return
    importlib.import_module("IPython.display").display(picture)


def _checked(attribution: Attribution, image: int) -> int:
    """The index of an image from 0; negative ones count from the end."""
    if not -len(attribution) <= image < len(attribution):
        raise TimmscopeError(
            f"there is no image {image}; the attribution has images 0 to {len(attribution) - 1}"
        )
    return image % len(attribution)


def _ground(shown: ShownPicture, size: int | None, picture: Image.Image | None) -> Image.Image:
    """The picture to draw on, in the size asked for."""
    if size is not None and size < 1:
        raise TimmscopeError(f"size is {size}; give the longest side in pixels, 1 or more")
    height, width = shown.picture
    ground = Image.open(io.BytesIO(shown.jpeg)) if picture is None else picture
    # Scaling rounds each side to whole pixels, so proportions may differ by one pixel.
    if abs(ground.width * height - ground.height * width) > max(*ground.size, height, width):
        raise TimmscopeError(
            f"the picture given is {ground.width} x {ground.height} pixels and the one explained "
            f"{width} x {height}; give the same picture, upright"
        )
    if size is None:
        return ground
    scale = size / max(height, width)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    return ground.convert("RGB").resize(fitted, Image.Resampling.LANCZOS)


def _data_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


# -- HTML -----------------------------------------------------------------------------------------


@functools.singledispatch
def html(result: Result) -> str:
    """What a notebook shows of a result: by default a table of its fields."""
    rows = [(name, _cell(value)) for name, value in shown_fields(result).items()]
    return _titled(type(result).__name__, _table(rows))


@html.register
def _(result: Attribution) -> str:
    known = range(min(len(result), MOST))
    cards = [_card(result, image, _lines(result, image)) for image in known]
    return _grid(cards, len(result), "picture")


@html.register
def _(result: Comparison) -> str:
    names = list(result.results)[:MOST]
    cards = []
    for name in names:
        one = result.results[name]
        said = [line for line in _lines(one, 0) if line[0] != "method"]
        cards.append(_card(one, 0, [("", name), *said]))
    failed = [(name, plain(reason)) for name, reason in result.errors.items()]
    return _grid(cards, len(result.results), "method") + (_table(failed) if failed else "")


@html.register
def _(result: Prediction) -> str:
    images = range(min(len(result.values), MOST))
    tables = []
    for image in images:
        top = result.top(5, image)
        tables.append(_table((label, result.text(value)) for _, label, value in top))
    return _grid(tables, len(result.values), "picture")


@html.register
def _(result: Score) -> str:
    rows = []
    for i, value in enumerate(result.value[:MOST].tolist()):
        text = f"{value:.4g}"
        if result.low is not None and result.high is not None:
            text += f" ({float(result.low[i]):.4g} to {float(result.high[i]):.4g})"
        rows.append((f"picture {i}" if len(result.value) > 1 else "score", text))
    return _titled(result.metric, _table(rows) + _rest(len(result.value), "picture"))


def _lines(result: Attribution, image: int) -> list[tuple[str, str]]:
    """What is said of one map: pairs of a name and a value, neither escaped."""
    shown = result.pictures[image] if result.pictures else None
    lines = [
        ("predicted", shown.words.predicted if shown else ""),
        ("explained", shown.words.explained if shown else result.target),
        ("score", f"{float(result.score[image]):.4g}"),
        ("method", result.method),
        ("layer", result.layer or ""),
        ("stopped after", str(result.partial or "")),
        ("map", _smoothing(result, image)),
    ]
    return [(name, value) for name, value in lines if value]


def _smoothing(result: Attribution, image: int) -> str:
    """How the map is smoothed; empty if it is not, or cannot be drawn."""
    values = result.values[image]
    return smoothing_text(values.numpy()) if bool(values.isfinite().all()) else ""


def _card(result: Attribution, image: int, lines: Iterable[tuple[str, str]]) -> str:
    """A map over its picture with lines of text below it."""
    text = "".join(
        f"<div>{f'<b>{plain(name)}</b> ' if name else ''}{plain(value)}</div>"
        for name, value in lines
    )
    try:
        picture = _small(result, image)
    except TimmscopeError as error:  # such as values that are not finite
        return f"<div>{plain(error)}</div>{text}"
    alt = plain(f"map of {result.method} over the picture").replace('"', "&quot;")
    return f'<img src="{_data_uri(picture)}" alt="{alt}" style="max-width:100%">{text}'


def _small(result: Attribution, image: int) -> Image.Image:
    """A small overlay, or the map alone where no picture is known."""
    if result.pictures:
        longest = max(result.pictures[image].picture)
        return overlay(result, image, size=min(SMALL, longest) if longest > SMALL else None)
    values = finite(result.values[image].numpy())
    limits = display_limits(values)
    coloured = colourise(drawn(values), default_colormap(signed=is_diverging(limits)), limits)
    scale = SMALL / max(values.shape)
    size = max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale))
    return Image.fromarray(coloured).resize(size, Image.Resampling.BILINEAR)


def _cell(value: object) -> str:
    """The value of a field as HTML; several results as a table with a row each."""
    if isinstance(value, Result) or not (
        isinstance(value, Sequence) and value and isinstance(value[0], Result)
    ):
        text = value if isinstance(value, str) else in_short(value)
        return plain(text)
    names = list(shown_fields(value[0]))
    head = "".join(f"<th>{plain(name)}</th>" for name in names)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(v)}</td>' for v in shown_fields(item).values())}</tr>"
        for item in value[:MOST]
    )
    return f"<table><tr>{head}</tr>{rows}</table>{_rest(len(value), 'row')}"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names, which are escaped here, and values, which are HTML."""
    body = "".join(
        f'<tr><th style="text-align:left">{plain(name)}</th>'
        f'<td style="text-align:left">{value}</td></tr>'
        for name, value in rows
    )
    return f"<table>{body}</table>"


def _titled(title: str, body: str) -> str:
    return f"<div><b>{plain(title)}</b></div>{body}"


def _grid(cells: Iterable[str], total: int, kind: str) -> str:
    """Cells side by side, and how many more there are."""
    style = f"max-width:{SMALL}px;font-size:90%;overflow-wrap:anywhere"
    shown = "".join(f'<div style="{style}">{cell}</div>' for cell in cells)
    grid = f'<div style="display:flex;flex-wrap:wrap;gap:12px">{shown}</div>'
    return grid + _rest(total, kind)


def _rest(total: int, kind: str) -> str:
    more = total - MOST
    return f"<div>and {more} more {kind}{'s' if more > 1 else ''}</div>" if more > 0 else ""

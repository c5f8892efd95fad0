"""Panels with maps, over a picture or without one.

Axes over a picture are in pixels of the original picture: pixel (x, y) extends from x - 0.5 to
x + 0.5, so the coordinates of its centre are integers.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import textwrap
from collections.abc import Iterable
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from core.errors import TimmscopeError
from core.views.colour import (
    ROUNDING,
    Limits,
    MapGeometry,
    default_colormap,
    finite,
    is_diverging,
    stops_json,
)
from core.views.display import display_limits, drawn, smoothing_text
from core.views.panels import Json, Panel, SharedRange, Smoothing, layout_of, panel, plain

NBSP = "\N{NO-BREAK SPACE}"
MAX_STEP = {"u1": 255, "u2": 65535}
"""The largest unsigned integer of one and of two bytes."""


class Packed(TypedDict):
    """An array as base64 of little-endian unsigned steps, one or two bytes, from `lo` to `hi`."""

    bdata: str
    dtype: Literal["u1", "u2"]
    shape: list[int]
    lo: float
    hi: float


def pack(values: ArrayLike, dtype: Literal["u1", "u2"] = "u2") -> Packed:
    """Packs values as 16-bit integers, about a tenth of the size of text, within half a step.

    Args:
        values: an array of any shape.
        dtype: "u1" for 8-bit integers: as many steps as a colormap has colours.

    Raises:
        TimmscopeError: a value is not finite.

    >>> packed = pack([[0.0, 1.0], [0.25, 4.0]])
    >>> packed["shape"], packed["lo"], packed["hi"]
    ([2, 2], 0.0, 4.0)
    """
    array = finite(values).astype(np.float64)
    lo, hi = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    steps = ((array - lo) / ((hi - lo) or 1.0) * MAX_STEP[dtype]).round().astype(f"<{dtype}")
    return {
        "bdata": base64.b64encode(steps.tobytes()).decode("ascii"),
        "dtype": dtype,
        "shape": list(array.shape),
        "lo": lo,
        "hi": hi,
    }


def unpack(packed: Packed) -> NDArray[np.float32]:
    """Restores the values from `pack`.

    >>> unpack(pack([[0.0, 4.0]])).tolist()
    [[0.0, 4.0]]
    """
    dtype, lo, hi = packed["dtype"], packed["lo"], packed["hi"]
    steps = np.frombuffer(base64.b64decode(packed["bdata"]), f"<{dtype}").reshape(packed["shape"])
    return (lo + steps * ((hi - lo) / MAX_STEP[dtype])).astype(np.float32)


STAGE_SIDE = 2048
"""Pixels of the longer side of a picture that is shown large, also on a screen of high density."""


def picture_uri(picture: Image.Image, side: int = 1024) -> str:
    """The picture as a JPEG data URI, scaled down if its longer side exceeds `side` pixels.

    Pass it to `overlay_panel` instead of the picture when several maps share one picture.
    """
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def overlay_panel(
    picture: Image.Image | str,
    values: ArrayLike,
    geometry: MapGeometry,
    *,
    title: str = "",
    caption: str = "",
    limits: Limits | None = None,
    unsmoothed: Limits | None = None,
    shared: tuple[Limits, Limits] | None = None,
    unit: str = "",
    smooth: bool = True,
    colorbar: bool = True,
    segments: NDArray[np.integer] | None = None,
    ends: tuple[str, str] | None = None,
) -> Panel:
    """A map drawn over the part of the picture that the model's input shows.

    A grainy map is drawn smoothed, and the caption says so; the reader may see it as it is, and
    hovering tells its own values in both cases. See `core.views.display`.

    Args:
        picture: the picture, or its `picture_uri`.
        values: (h, w) on any grid over the geometry's box.
        geometry: the position of the box; it is outlined if it is not the whole picture.
        title: title of the panel.
        caption: text below the title.
        limits: colour range of what is drawn; None uses that of the map.
        unsmoothed: colour range while a grainy map is not smoothed; None uses `limits`, or that of
            the map.
        shared: colour ranges together with other maps, smoothed and not, to choose on the page.
        unit: unit of the values, shown at the colour bar.
        smooth: whether to interpolate between values, and to smooth a grainy map; otherwise each
            cell is a uniform square.
        colorbar: whether to show a colour bar.
        segments: (h, w) labels of the map's segments, whose borders are drawn.
        ends: what the lowest and the highest values of a signed map speak for, as words at the
            colour bar.

    Raises:
        TimmscopeError: a value is not finite, or the values are not a single map.
    """
    array, (height, width) = _one_map(values), geometry.picture
    uri = picture if isinstance(picture, str) else picture_uri(picture)
    span = limits or display_limits(array, smooth=smooth)
    trace, signed = _heatmap(array, geometry.box, span, smooth)
    named = ends if signed else None
    trace |= _colours(array, span, unit, colorbar, named)
    layout = layout_of(_margin(38 if colorbar else 0)) | _over(uri, width, height)
    layout["shapes"] = _borders(segments, geometry.box) if segments is not None else []
    layout["shapes"] += [] if geometry.whole else _outside(geometry)
    shown = panel(title, caption, [trace], layout, map=True, signed=signed, aspect=height / width)
    shown["seen"] = _seen(geometry)
    if shared:
        shown["shared"] = _together(array, shared, unit, colorbar)
    if smooth and (told := smoothing_text(array)):
        alone = unsmoothed or limits or display_limits(array, smooth=False)
        bare = _colours(array, alone, unit, colorbar, named)
        _smooth(shown, told, pack(drawn(array).clip(*_hull(span, shared)), "u1"), bare)
    return shown


def _together(
    array: NDArray[np.float32], shared: tuple[Limits, Limits], unit: str, colorbar: bool
) -> SharedRange:
    """How a map looks in the ranges of colours that it shares, smoothed and not."""
    drawn_in, unsmoothed = (_colours(array, span, unit, colorbar) for span in shared)
    return {"signed": is_diverging(shared[0]), "drawn": drawn_in, "unsmoothed": unsmoothed}


def _hull(span: Limits, shared: tuple[Limits, Limits] | None) -> Limits:
    """All values that have a colour of their own in some range, of maps drawn smoothed."""
    low, high = shared[0] if shared else span
    return min(span[0], low), max(span[1], high)


def _smooth(shown: Panel, told: str, means: Packed, bare: Json) -> None:
    """Let a panel show local means, while hovering tells the values of the map."""
    smoothing: Smoothing = {"z": means, "caption": shown["caption"], "unsmoothed": bare}
    shown["smoothing"] = smoothing
    shown["caption"] = " · ".join(filter(None, [shown["caption"], told]))
    (trace,) = shown["figure"]["data"]
    trace["hovertemplate"] = trace["hovertemplate"].replace("%{z:", "%{customdata:")


def picture_panel(
    picture: Image.Image,
    *,
    title: str = "",
    caption: str = "",
    uri: str = "",
) -> Panel:
    """A picture without a map.

    Args:
        picture: the picture.
        title: title of the panel.
        caption: text below the title, one or two sentences.
        uri: its `picture_uri`, where that is known.
    """
    width, height = picture.size
    uri = uri or picture_uri(picture)
    layout = layout_of(_margin(0)) | _over(uri, width, height)
    return panel(title, caption, [_to_point_at(width, height)], layout, aspect=height / width)


def linked(panels: Iterable[Panel]) -> list[Panel]:
    """Panels over pictures, linked with all others over the same picture; see `Panel.linked`."""
    found = []
    for one in panels:
        over = one["figure"]["layout"] if one["figure"]["data"] else {}
        found.append({**one, "linked": over["uirevision"]} if "images" in over else one)
    return found


def _name_of(uri: str) -> str:
    """Tells a picture from others, without its pixels."""
    return hashlib.blake2s(uri.encode(), digest_size=8).hexdigest()


POINTS = 112
"""Cells along the longer side by which a bare picture can be pointed at."""


def _to_point_at(width: int, height: int) -> Json:
    """A trace that cannot be seen: without one, a page is not told where the pointer is."""
    step = max(width, height) / POINTS
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    dx, dy = width / columns, height / rows
    return {
        "type": "heatmap",
        "z": {"bdata": _zeros(rows * columns), "dtype": "u1", "shape": f"{rows}, {columns}"},
        "x0": dx / 2 - 0.5,
        "dx": dx,
        "y0": dy / 2 - 0.5,
        "dy": dy,
        "opacity": 0,
        "showscale": False,
        "hoverinfo": "none",
    }


def _zeros(count: int) -> str:
    return base64.b64encode(bytes(count)).decode("ascii")


def map_panel(
    values: ArrayLike,
    title: str = "",
    caption: str = "",
    *,
    limits: Limits | None = None,
    smooth: bool = False,
) -> Panel:
    """A small map without a picture, such as a feature map or an attention head.

    Args:
        values: (h, w); the axes are in cells.
        title: title of the panel.
        caption: text below the title, one or two sentences.
        limits: colour range, for maps that share one; None uses that of the map.
        smooth: whether to interpolate between values.

    Raises:
        TimmscopeError: a value is not finite, or the values are not a single map.
    """
    array = _one_map(values)
    height, width = array.shape
    span = limits or display_limits(array, smooth=False)
    trace, signed = _heatmap(array, (0, 0, width, height), span, smooth)
    layout = layout_of({"l": 0, "r": 0, "t": 0, "b": 0}) | _frame(width, height)
    layout |= {"dragmode": False, "uirevision": f"{width}x{height}"}
    trace |= _colours(array, span, "", colorbar=False)
    return panel(title, caption, [trace], layout, map=True, signed=signed, aspect=height / width)


def _background(uri: str, width: int, height: int) -> Json:
    """A picture as the background of the whole plotting area."""
    return {
        "source": uri, "xref": "x", "yref": "y", "x": -0.5, "y": -0.5, "sizex": width,
        "sizey": height, "sizing": "stretch", "layer": "below",
    }  # fmt: skip


def _margin(below: int) -> dict[str, int]:
    return {"l": 0, "r": 0, "t": 0, "b": below}


def _over(uri: str, width: int, height: int) -> Json:
    """What the layout of a figure over a picture of that size says of the picture."""
    ground = {"uirevision": _name_of(uri), "images": [_background(uri, width, height)]}
    return _frame(width, height) | ground


def _frame(width: int, height: int) -> Json:
    """Hidden axes for a picture of that size, with y downwards and square pixels."""
    hidden = {"visible": False, "constrain": "domain"}
    return {
        "dragmode": "zoom",
        "hovermode": "closest",
        "xaxis": hidden | {"range": [-0.5, width - 0.5]},
        "yaxis": hidden | {"range": [height - 0.5, -0.5], "scaleanchor": "x"},
    }


def _one_map(values: ArrayLike) -> NDArray[np.float32]:
    array = finite(values)
    if array.ndim != 2 or not array.size:
        raise TimmscopeError(
            f"a map of shape {array.shape} cannot be drawn; give an array of shape (h, w)"
        )
    return array


def _heatmap(
    array: NDArray[np.float32], box: tuple[float, float, float, float], span: Limits, smooth: bool
) -> tuple[Json, bool]:
    signed = is_diverging(span)
    left, top, right, bottom = box
    dx, dy = (right - left) / array.shape[1], (bottom - top) / array.shape[0]
    trace = {
        "type": "heatmap",
        "z": pack(array),
        "x0": left - 0.5 + dx / 2,
        "dx": dx,
        "y0": top - 0.5 + dy / 2,
        "dy": dy,
        "colorscale": stops_json(default_colormap(signed), signed=signed),
        "zsmooth": _smoothing(array.shape) if smooth else False,
        "hovertemplate": "x %{x:.0f}, y %{y:.0f}<br><b>%{z:.3~g}</b><extra></extra>",
    }
    return trace, signed


def _smoothing(shape: tuple[int, ...]) -> str:
    """Plotly's smoothing: of values on coarse grids, of colours on fine ones, which is faster."""
    return "best" if max(shape) < 64 else "fast"


def _colours(
    array: NDArray[np.float32],
    span: Limits,
    unit: str,
    colorbar: bool,
    names: tuple[str, str] | None = None,
) -> Json:
    """The range of colours of a trace, with a colour bar that tells the values at its ends."""
    ends: Json = {"zmin": span[0], "zmax": span[1]}
    if not colorbar:
        return ends | {"showscale": False}
    return ends | {"colorbar": _BAR | _ticks(array, span, unit, names)}


_BAR: Json = {
    "orientation": "h",
    "x": 0.5,
    "y": 0,
    "xanchor": "center",
    "yanchor": "top",
    "len": 1,
    "thickness": 7,
    "xpad": 28,
    "ypad": 8,
    "outlinewidth": 0,
    "ticklabeloverflow": "allow",
    "tickfont": {"size": 10},
    "ticks": "",
}


def _ticks(
    array: NDArray[np.float32], span: Limits, unit: str, names: tuple[str, str] | None
) -> Json:
    """The values at both ends and in the middle; "≤" and "≥" where the map goes beyond."""
    low, high = span
    first_number, middle, last_number = bar_numbers(array, span)
    centre = f"{middle} {plain(unit)}".strip()
    if names:
        first, last = (plain(textwrap.shorten(name, 24, placeholder="…")) for name in names)
        centre = f"◀ {first} {NBSP * 3} {centre} {NBSP * 3} {last} ▶"
    return {
        "tickvals": [low, (low + high) / 2, high],
        "ticktext": [first_number, centre, last_number],
    }


def bar_numbers(values: NDArray[np.float32], span: Limits) -> tuple[str, str, str]:
    """The numbers at a colour bar's low end, middle and high end.

    Args:
        values: the map; "≤" and "≥" say that it goes beyond the range.
        span: the range of colours.

    >>> bar_numbers(np.array([0, 3], np.float32), (0.0, 2.0))
    ('0', '1', '≥2')
    """
    low, high = span
    slack, digits = ROUNDING * max(abs(low), abs(high)), significant_digits(span)
    below = "≤" if float(values.min()) < low - slack else ""
    above = "≥" if float(values.max()) > high + slack else ""
    return (
        f"{below}{low:.{digits}g}",
        f"{(low + high) / 2:.{digits}g}",
        f"{above}{high:.{digits}g}",
    )


def significant_digits(span: Limits) -> int:
    """How many digits tell the ends of a range and its middle apart; at least two.

    >>> significant_digits((0.0, 1.0)), significant_digits((9.7, 10.2))
    (2, 3)
    """
    low, high = span
    return 2 + max(0, math.floor(math.log10(max(abs(low), abs(high)) / (high - low))))


def _outside(geometry: MapGeometry) -> list[Json]:
    """What the model does not see of the picture, dimmed, and the line around what it sees."""
    height, width = geometry.picture
    left, top, right, bottom = (edge - 0.5 for edge in geometry.box)
    frame = f"M-0.5,-0.5H{width - 0.5}V{height - 0.5}H-0.5Z"
    west, north = max(left, -0.5), max(top, -0.5)
    east, south = min(right, width - 0.5), min(bottom, height - 0.5)
    hole = f"M{west:.1f},{north:.1f}H{east:.1f}V{south:.1f}H{west:.1f}Z"
    dark = {"type": "path", "path": frame + hole, "fillrule": "evenodd", "line": {"width": 0}}
    edges = {"type": "rect", "x0": left, "x1": right, "y0": top, "y1": bottom}
    # A white line on a wider dark one is visible on any picture.
    return [
        dark | {"fillcolor": "rgba(15,23,42,0.55)"},
        edges | {"line": {"color": "rgba(0,0,0,0.55)", "width": 3}},
        edges | {"line": {"color": "#ffffff", "width": 1.25}},
    ]


def _seen(geometry: MapGeometry) -> str:
    """How much of the picture the model sees, in words; empty for all of it."""
    if geometry.whole:
        return ""
    height, width = geometry.picture
    left, top, right, bottom = geometry.box
    across = max(0.0, min(right, width) - max(left, 0.0)) / width
    down = max(0.0, min(bottom, height) - max(top, 0.0)) / height
    return f"The model sees {across * down:.0%} of this picture"


def _borders(labels: NDArray[np.integer], box: tuple[float, float, float, float]) -> list[Json]:
    """Lines between cells with different labels (h, w) on a grid over the box."""
    left, top, right, bottom = box
    height, width = labels.shape
    x = left - 0.5 + np.arange(width + 1) * ((right - left) / width)
    y = top - 0.5 + np.arange(height + 1) * ((bottom - top) / height)
    across = _runs(labels[1:] != labels[:-1])
    down = _runs((labels[:, 1:] != labels[:, :-1]).T)
    lines = [f"M{x[a]:.1f},{y[row + 1]:.1f}H{x[b]:.1f}" for row, a, b in across]
    lines += [f"M{x[column + 1]:.1f},{y[a]:.1f}V{y[b]:.1f}" for column, a, b in down]
    if not lines:
        return []
    edges = {"type": "path", "path": "".join(lines)}
    return [
        edges | {"line": {"color": "rgba(0,0,0,0.4)", "width": 2}},
        edges | {"line": {"color": "rgba(255,255,255,0.85)", "width": 0.75}},
    ]


def _runs(marks: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Runs of adjacent True cells in each row, as (row, start, stop) with an exclusive stop.

    >>> _runs(np.array([[True, True, False], [False, False, True]]))
    [(0, 0, 2), (1, 2, 3)]
    """
    steps = np.diff(np.pad(marks.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    return list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))

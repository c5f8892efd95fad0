"""Panels with maps, over a picture or without one.

Axes over a picture are in pixels of the original picture: pixel (x, y) extends from x - 0.5 to
x + 0.5, so the coordinates of its centre are integers.
"""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from core.errors import TimmscopeError
from core.views.colour import Limits, MapGeometry, default_colormap, finite, stops_json
from core.views.colour import limits as own_limits
from core.views.panels import Json, Panel, layout_of, panel, plain

MAX_STEP = 65535
"""Largest unsigned 16-bit integer."""


class Packed(TypedDict):
    """An array as base64 of little-endian unsigned 16-bit steps between `lo` and `hi`."""

    bdata: str
    dtype: Literal["u2"]
    shape: list[int]
    lo: float
    hi: float


def pack(values: ArrayLike) -> Packed:
    """Packs values as 16-bit integers, about a tenth of the size of text, within half a step.

    Raises:
        TimmscopeError: a value is not finite.

    >>> packed = pack([[0.0, 1.0], [0.25, 4.0]])
    >>> packed["shape"], packed["lo"], packed["hi"]
    ([2, 2], 0.0, 4.0)
    """
    array = finite(values).astype(np.float64)
    lo, hi = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    steps = ((array - lo) / ((hi - lo) or 1.0) * MAX_STEP).round().astype("<u2")
    return {
        "bdata": base64.b64encode(steps.tobytes()).decode("ascii"),
        "dtype": "u2",
        "shape": list(array.shape),
        "lo": lo,
        "hi": hi,
    }


def unpack(packed: Packed) -> NDArray[np.float32]:
    """Restores the values from `pack`.

    >>> unpack(pack([[0.0, 4.0]])).tolist()
    [[0.0, 4.0]]
    """
    steps = np.frombuffer(base64.b64decode(packed["bdata"]), "<u2").reshape(packed["shape"])
    lo, hi = packed["lo"], packed["hi"]
    return (lo + steps * ((hi - lo) / MAX_STEP)).astype(np.float32)


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
    unit: str = "",
    smooth: bool = True,
    colorbar: bool = True,
    segments: NDArray[np.integer] | None = None,
) -> Panel:
    """A map drawn over the part of the picture that the model's input shows.

    Args:
        picture: the picture, or its `picture_uri`.
        values: (h, w) on any grid over the geometry's box.
        geometry: the position of the box; it is outlined if it is not the whole picture.
        title: title of the panel.
        caption: text below the title, one or two sentences.
        limits: colour range, for maps that share one; None uses that of the map.
        unit: unit of the values, shown at the colour bar.
        smooth: whether to interpolate between values; otherwise each cell is a uniform square.
        colorbar: whether to show a colour bar.
        segments: (h, w) labels of the map's segments, whose borders are drawn.

    Raises:
        TimmscopeError: a value is not finite, or the values are not a single map.
    """
    height, width = geometry.picture
    uri = picture if isinstance(picture, str) else picture_uri(picture)
    trace, signed, span = _heatmap(values, geometry.box, limits, smooth)
    margin = {"l": 0, "r": 0, "t": 0, "b": 38 if colorbar else 0}
    trace |= {"colorbar": _colorbar(span, unit)} if colorbar else {"showscale": False}
    layout = layout_of(margin) | _frame(width, height)
    layout["uirevision"] = hashlib.blake2s(uri.encode(), digest_size=8).hexdigest()
    layout["images"] = [_background(uri, width, height)]
    layout["shapes"] = _borders(segments, geometry.box) if segments is not None else []
    layout["shapes"] += [] if geometry.whole else _outline(geometry.box)
    return panel(title, caption, [trace], layout, map=True, signed=signed, aspect=height / width)


def picture_panel(picture: Image.Image, *, title: str = "", caption: str = "") -> Panel:
    """A picture without a map.

    Args:
        picture: the picture.
        title: title of the panel.
        caption: text below the title, one or two sentences.
    """
    width, height = picture.size
    layout = layout_of({"l": 0, "r": 0, "t": 0, "b": 0}) | _frame(width, height)
    layout["images"] = [_background(picture_uri(picture), width, height)]
    empty_trace: Json = {"type": "scatter", "x": [], "y": [], "hoverinfo": "skip"}
    return panel(title, caption, [empty_trace], layout, aspect=height / width)


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
    trace, signed, _ = _heatmap(array, (0, 0, width, height), limits, smooth)
    layout = layout_of({"l": 0, "r": 0, "t": 0, "b": 0}) | _frame(width, height)
    layout |= {"dragmode": False, "uirevision": f"{width}x{height}"}
    trace["showscale"] = False
    return panel(title, caption, [trace], layout, map=True, signed=signed, aspect=height / width)


def _background(uri: str, width: int, height: int) -> Json:
    """A picture as the background of the whole plotting area."""
    return {
        "source": uri, "xref": "x", "yref": "y", "x": -0.5, "y": -0.5, "sizex": width,
        "sizey": height, "sizing": "stretch", "layer": "below",
    }  # fmt: skip


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
    values: ArrayLike, box: tuple[float, float, float, float], limits: Limits | None, smooth: bool
) -> tuple[Json, bool, Limits]:
    array = _one_map(values)
    span = limits or own_limits(array)
    signed = span[0] < 0
    left, top, right, bottom = box
    dx, dy = (right - left) / array.shape[1], (bottom - top) / array.shape[0]
    trace = {
        "type": "heatmap",
        "z": pack(array),
        "x0": left - 0.5 + dx / 2,
        "dx": dx,
        "y0": top - 0.5 + dy / 2,
        "dy": dy,
        "zmin": span[0],
        "zmax": span[1],
        "colorscale": stops_json(default_colormap(signed), signed=signed),
        "zsmooth": _smoothing(array.shape) if smooth else False,
        "hovertemplate": "x %{x:.0f}, y %{y:.0f}<br><b>%{z:.3~g}</b><extra></extra>",
    }
    return trace, signed, span


def _smoothing(shape: tuple[int, ...]) -> str:
    """Plotly's smoothing: of values on coarse grids, of colours on fine ones, which is faster."""
    return "best" if max(shape) < 64 else "fast"


def _colorbar(span: Limits, unit: str) -> Json:
    low, high = span
    ticks = [low, (low + high) / 2, high]
    return {
        "orientation": "h",
        "x": 0.5,
        "y": 0,
        "xanchor": "center",
        "yanchor": "top",
        "len": 1,
        "thickness": 7,
        "xpad": 20,
        "ypad": 8,
        "outlinewidth": 0,
        "tickvals": ticks,
        "ticktext": [f"{low:.2g}", f"{ticks[1]:.2g} {plain(unit)}".strip(), f"{high:.2g}"],
        "ticklabeloverflow": "allow",
        "tickfont": {"size": 10},
        "ticks": "",
    }


def _outline(box: tuple[float, float, float, float]) -> list[Json]:
    left, top, right, bottom = (edge - 0.5 for edge in box)
    edges = {"type": "rect", "x0": left, "x1": right, "y0": top, "y1": bottom}
    # A white line on a wider dark one is visible on any picture.
    return [
        edges | {"line": {"color": "rgba(0,0,0,0.55)", "width": 3}},
        edges | {"line": {"color": "#ffffff", "width": 1.25}},
    ]


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

"""Results as panels: plain dictionaries that any page with plotly.js can draw.

A panel is data, never markup. Its title and caption are meant for ``textContent``; text inside a
figure, where plotly.js reads a few tags, is escaped here. Axes over a picture count the original
picture's pixels: pixel (x, y) covers x - 0.5 to x + 0.5, so its centre has whole coordinates.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from core.errors import TimmscopeError
from core.views.colour import Limits, Placed, default_colormap, finite, stops_json
from core.views.colour import limits as own_limits

Json = dict[str, Any]


class Panel(TypedDict):
    """One card of results.

    Attributes:
        title: a few words, plain text.
        caption: a sentence or two, plain text.
        figure: Plotly's ``data`` and ``layout``; both empty where there is nothing to draw. The
            ``z`` of a map is packed, see `pack`.
        tone: "error" for the reason why there is no result.
        map: whether the figure is a map whose colours a reader may change.
        signed: whether the map has values on both sides of zero.
        aspect: height over width of the plotting area; 0 where `height` rules.
        height: height of the figure in CSS pixels; 0 where `aspect` rules.
        margin: CSS pixels that the figure keeps around its plotting area: (across, down).
    """

    title: str
    caption: str
    figure: Json
    tone: Literal["", "error"]
    map: bool
    signed: bool
    aspect: float
    height: int
    margin: tuple[int, int]


class Curve(TypedDict):
    """One line of `curves_panel`.

    Attributes:
        name: shown in the legend.
        x, y: equally many numbers.
        style: "dash" for controls.
        auc: area under the curve, shown beside the name.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: NotRequired[Literal["solid", "dash"]]
    auc: NotRequired[float | None]


class Packed(TypedDict):
    """An array as base64 of little-endian unsigned 16-bit steps between `lo` and `hi`."""

    bdata: str
    dtype: Literal["u2"]
    shape: list[int]
    lo: float
    hi: float


STEPS = 65535
ACCENT, QUIET = "#6366f1", "rgba(99,102,241,0.42)"
CYCLE = (
    "#6366f1", "#ea580c", "#0d9488", "#db2777", "#0284c7", "#65a30d", "#9333ea", "#b45309",
)  # fmt: skip
"""Line colours with a contrast of 3 or more on white and on near-black alike."""
CONTROL = "#7c8394"
CONTROL_DASHES = ("dash", "dot", "dashdot", "longdash")
GRID, TRACK = "rgba(128,128,140,0.22)", "rgba(128,128,140,0.16)"
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', sans-serif"


def pack(values: ArrayLike) -> Packed:
    """The values in 16-bit steps: a tenth of their size as text, off by half a step at most.

    Raises:
        TimmscopeError: some are not finite.

    >>> packed = pack([[0.0, 1.0], [0.25, 4.0]])
    >>> packed["shape"], packed["lo"], packed["hi"]
    ([2, 2], 0.0, 4.0)
    """
    array = finite(values).astype(np.float64)
    lo, hi = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    steps = ((array - lo) / ((hi - lo) or 1.0) * STEPS).round().astype("<u2")
    return {
        "bdata": base64.b64encode(steps.tobytes()).decode("ascii"),
        "dtype": "u2",
        "shape": list(array.shape),
        "lo": lo,
        "hi": hi,
    }


def unpack(packed: Packed) -> NDArray[np.float32]:
    """What `pack` packed.

    >>> unpack(pack([[0.0, 4.0]])).tolist()
    [[0.0, 4.0]]
    """
    steps = np.frombuffer(base64.b64decode(packed["bdata"]), "<u2").reshape(packed["shape"])
    lo, hi = packed["lo"], packed["hi"]
    return (lo + steps * ((hi - lo) / STEPS)).astype(np.float32)


def picture_uri(picture: Image.Image, side: int = 1024) -> str:
    """The picture as a JPEG data URI, scaled down where its longer side exceeds `side`.

    Hand it to `overlay_panel` in the picture's stead where several maps share one picture.
    """
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def overlay_panel(
    picture: Image.Image | str,
    values: ArrayLike,
    geometry: Placed,
    *,
    title: str = "",
    caption: str = "",
    limits: Limits | None = None,
    unit: str = "",
    smooth: bool = True,
    colorbar: bool = True,
    segments: NDArray[np.integer] | None = None,
) -> Panel:
    """A map over the picture, where the model looked; what it never saw stays bare.

    Args:
        picture: the picture, or its `picture_uri`.
        values: (h, w) on any grid over the geometry's box.
        geometry: where the box is; it is outlined if it is not the whole picture.
        title: a few words.
        caption: a sentence or two.
        limits: colour range, for maps that share one; None takes the map's own.
        unit: what the values count, beside the colour bar.
        smooth: blend neighbouring values; otherwise each cell shows as a flat square.
        colorbar: show which colour means which value.
        segments: (h, w) labels of the regions that the map is made of; their borders are drawn.

    Raises:
        TimmscopeError: the values are not finite, or not one map.
    """
    height, width = geometry.picture
    uri = picture if isinstance(picture, str) else picture_uri(picture)
    trace, signed, span = _heatmap(values, geometry.box, limits, smooth)
    margin = {"l": 0, "r": 0, "t": 0, "b": 38 if colorbar else 0}
    trace |= {"colorbar": _colorbar(span, unit)} if colorbar else {"showscale": False}
    layout = _layout(margin) | _frame(width, height)
    layout["uirevision"] = hashlib.blake2s(uri.encode(), digest_size=8).hexdigest()
    layout["images"] = [
        {"source": uri, "xref": "x", "yref": "y", "x": -0.5, "y": -0.5, "sizex": width,
         "sizey": height, "sizing": "stretch", "layer": "below"}
    ]  # fmt: skip
    layout["shapes"] = _borders(segments, geometry.box) if segments is not None else []
    layout["shapes"] += [] if geometry.whole else _outline(geometry.box)
    return _panel(title, caption, [trace], layout, map=True, signed=signed, aspect=height / width)


def map_panel(
    values: ArrayLike,
    title: str = "",
    caption: str = "",
    *,
    limits: Limits | None = None,
    smooth: bool = False,
) -> Panel:
    """A small map with no picture under it, such as a feature map or an attention head.

    Args:
        values: (h, w); axes count its cells.
        title: a few words.
        caption: a sentence or two.
        limits: colour range, for maps that share one; None takes the map's own.
        smooth: blend neighbouring values.

    Raises:
        TimmscopeError: the values are not finite, or not one map.
    """
    array = _one_map(values)
    height, width = array.shape
    trace, signed, _ = _heatmap(array, (0, 0, width, height), limits, smooth)
    layout = _layout({"l": 0, "r": 0, "t": 0, "b": 0}) | _frame(width, height)
    layout |= {"dragmode": False, "uirevision": f"{width}x{height}"}
    trace["showscale"] = False
    return _panel(title, caption, [trace], layout, map=True, signed=signed, aspect=height / width)


def bars_panel(
    rows: Sequence[tuple[str, float]],
    *,
    title: str = "Prediction",
    caption: str = "",
    highlight: int | None = 0,
    shares: bool = True,
) -> Panel:
    """Bars with the label above each and its value at the right.

    Args:
        rows: (label, value), largest first.
        title: a few words.
        caption: a sentence or two.
        highlight: the row in the accent colour, such as the explained class; None for none.
        shares: whether the values are probabilities, on a scale from 0 to 1; others are told as
            they are, on a scale from 0 to the largest.
    """
    at = list(range(len(rows)))
    values = [float(value) for _, value in rows]
    top = 1.0 if shares else max([*values, 0.0]) or 1.0
    form = "{:.1%}" if shares else "{:.3g}"
    bar = {"type": "bar", "orientation": "h", "y": at, "width": 0.24, "showlegend": False}
    track = bar | {
        "x": [1.0] * len(at),
        "marker": {"color": TRACK, "cornerradius": 3},
        "hoverinfo": "skip",
    }
    filled = bar | {
        "x": [max(value, 0.0) / top for value in values],
        "marker": {
            "color": [ACCENT if i == highlight else QUIET for i in at],
            "cornerradius": 3,
        },
        "text": [_plain(label) for label, _ in rows],
        "textposition": "none",
        "customdata": [f"{value:.2%}" if shares else f"{value:.5g}" for value in values],
        "hovertemplate": "%{text}<br><b>%{customdata}</b><extra></extra>",
    }
    layout = _layout({"l": 0, "r": 0, "t": 0, "b": 0}) | {
        "barmode": "overlay",
        "dragmode": False,
        "xaxis": {"range": [0, 1], "visible": False, "fixedrange": True},
        "yaxis": {"range": [len(rows) - 0.8, -0.55], "visible": False, "fixedrange": True},
        "annotations": [
            note
            for i, (label, value) in enumerate(rows)
            for note in (
                _note(_plain(textwrap.shorten(str(label), 34, placeholder="…")), 0, i, "left"),
                _note(f"<b>{form.format(value)}</b>", 1, i, "right"),
            )
        ],
    }
    return _panel(title, caption, [track, filled], layout, height=max(1, len(rows)) * 40 + 2)


def curves_panel(
    curves: Sequence[Curve],
    x_title: str,
    y_title: str,
    *,
    title: str = "",
    caption: str = "",
    height: int = 360,
) -> Panel:
    """Lines over common axes; controls are dashed and grey.

    Args:
        curves: one line each, in the order of the legend.
        x_title: what the horizontal axis counts.
        y_title: what the vertical axis counts.
        title: a few words.
        caption: a sentence or two.
        height: CSS pixels, the legend's rows not counted.

    Raises:
        TimmscopeError: a curve whose x and y differ in length.
    """
    strokes = _strokes()
    data = [_line(curve, strokes) for curve in curves]
    rows = -(-len(curves) // 2)
    layout = _layout({"l": 8, "r": 12, "t": 8, "b": 8}) | {
        "dragmode": "zoom",
        "uirevision": f"{x_title}|{y_title}",
        "hovermode": "closest",
        "showlegend": True,
        "xaxis": _axis(x_title),
        "yaxis": _axis(y_title),
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "yref": "paper"},
    }
    return _panel(title, caption, data, layout, height=height + 20 * rows)


def error_panel(title: str, reason: str) -> Panel:
    """The reason why there is no result where there would have been one."""
    panel = _panel(title, reason, [], {})
    panel["tone"] = "error"
    return panel


def empty_panel(message: str) -> Panel:
    """What to do next, where there is nothing to show yet."""
    return _panel("", message, [], {})


def _panel(
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


def _plain(text: object) -> str:
    """Text that plotly.js shows as it is, tags and all."""
    return html.escape(str(text), quote=False)


def _layout(margin: Mapping[str, int]) -> Json:
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


def _frame(width: int, height: int) -> Json:
    """Hidden axes over a picture of that many pixels, y downwards, pixels square."""
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
            f"a map of shape {array.shape} cannot be drawn; give height and width, (h, w)"
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
    """Blend values on coarse grids; on fine ones blending colours looks the same, much faster."""
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
        "ticktext": [f"{low:.2g}", f"{ticks[1]:.2g} {_plain(unit)}".strip(), f"{high:.2g}"],
        "ticklabeloverflow": "allow",
        "tickfont": {"size": 10},
        "ticks": "",
    }


def _outline(box: tuple[float, float, float, float]) -> list[Json]:
    left, top, right, bottom = (edge - 0.5 for edge in box)
    edges = {"type": "rect", "x0": left, "x1": right, "y0": top, "y1": bottom}
    # White on a wider dark line is seen on any picture.
    return [
        edges | {"line": {"color": "rgba(0,0,0,0.55)", "width": 3}},
        edges | {"line": {"color": "#ffffff", "width": 1.25}},
    ]


def _borders(labels: NDArray[np.integer], box: tuple[float, float, float, float]) -> list[Json]:
    """The lines between cells of different labels, where the grid of labels lies over the box."""
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
    """Unbroken runs of true cells as (row, start, stop), stop not included.

    >>> _runs(np.array([[True, True, False], [False, False, True]]))
    [(0, 0, 2), (1, 2, 3)]
    """
    steps = np.diff(np.pad(marks.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    return list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))


def _note(text: str, x: float, y: float, side: str) -> Json:
    return {
        "text": text, "x": x, "xref": "x", "xanchor": side, "y": y - 0.16, "yref": "y",
        "yanchor": "bottom", "align": side, "showarrow": False, "font": {"size": 13},
        "borderpad": 0,
    }  # fmt: skip


def _line(curve: Curve, strokes: Mapping[str, Iterator[Json]]) -> Json:
    name, x, y = str(curve["name"]), finite(curve["x"]), finite(curve["y"])
    if len(x) != len(y):
        raise TimmscopeError(f"curve {name!r} has {len(x)} x but {len(y)} y; give as many of each")
    auc = curve.get("auc")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x.tolist(),
        "y": y.tolist(),
        "name": _plain(name) + ("" if auc is None else f"  <b>{auc:.3f}</b>"),
        "text": _plain(name),
        "line": next(strokes[curve.get("style", "solid")]),
        "hovertemplate": "%{text}<br>%{x:.3~g}, <b>%{y:.4~g}</b><extra></extra>",
    }


def _axis(title: str) -> Json:
    return {
        "title": {"text": _plain(title), "standoff": 8, "font": {"size": 12}},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "nticks": 6,
    }


def _strokes() -> dict[str, Iterator[Json]]:
    """Line after line in a look of its own: colours for methods, dashes for controls."""
    return {
        "solid": ({"color": c, "width": 2.25, "dash": "solid"} for c in itertools.cycle(CYCLE)),
        "dash": (
            {"color": CONTROL, "width": 1.5, "dash": d} for d in itertools.cycle(CONTROL_DASHES)
        ),
    }

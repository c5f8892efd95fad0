"""Panels with bar charts, curves and matrices."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from core.errors import TimmscopeError
from core.types import OutputKind, Prediction
from core.types import finite as finite_or_none
from core.views.colour import finite
from core.views.panels import Json, Panel, layout_of, panel, plain

ACCENT, QUIET = "#6366f1", "rgba(99,102,241,0.42)"
CYCLE = (
    "#6366f1", "#ea580c", "#0d9488", "#db2777", "#0284c7", "#65a30d", "#9333ea", "#b45309",
)  # fmt: skip
"""Line colours with a contrast of at least 3 on white and on near-black."""
MATRIX_ROW = 46
"""Height of a row of a matrix with its name, in CSS pixels."""
CONTROL = "#7c8394"
CONTROL_DASHES = ("dash", "dot", "dashdot", "longdash")
GRID, TRACK = "rgba(128,128,140,0.22)", "rgba(128,128,140,0.16)"


class Curve(TypedDict):
    """One line of `curves_panel`.

    Attributes:
        name: the name in the legend.
        x: abscissas.
        y: ordinates, as many as abscissas.
        style: "dash" for controls.
        auc: area under the curve, shown after the name.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: NotRequired[Literal["solid", "dash"]]
    auc: NotRequired[float | None]


def bars_panel(
    rows: Sequence[tuple[str, float]],
    *,
    title: str = "Prediction",
    caption: str = "",
    highlight: int | None = 0,
    shares: bool = True,
    texts: Sequence[str] = (),
    bars: bool = True,
) -> Panel:
    """A bar chart with a label above each bar and its value at the right.

    Args:
        rows: (label, value), largest first.
        title: title of the panel.
        caption: text below the title, one or two sentences.
        highlight: index of the row in the accent colour, such as the explained class; None for
            none.
        shares: True if the values are probabilities, shown in per cent on a scale from 0 to 1.
            Other values are shown as numbers on a scale from 0 to the largest.
        texts: the values as they are shown; by default they are formatted here.
        bars: False for numbers that share no scale, which get no bars.
    """
    positions = list(range(len(rows)))
    values = [float(value) for _, value in rows]
    top = 1.0 if shares else max([*values, 0.0]) or 1.0
    number_format = "{:.1%}" if shares else "{:.3g}"
    texts = texts or [number_format.format(value) for value in values]
    bar = {"type": "bar", "orientation": "h", "y": positions, "width": 0.24, "showlegend": False}
    track = bar | {
        "x": [float(bars)] * len(positions),
        "marker": {"color": TRACK, "cornerradius": 3},
        "hoverinfo": "skip",
    }
    filled = bar | {
        "x": [max(value, 0.0) / top * bars for value in values],
        "marker": {
            "color": [ACCENT if i == highlight else QUIET for i in positions],
            "cornerradius": 3,
        },
        "text": [plain(label) for label, _ in rows],
        "textposition": "none",
        "customdata": [f"{value:.2%}" if shares else f"{value:.5g}" for value in values],
        "hovertemplate": "%{text}<br><b>%{customdata}</b><extra></extra>",
    }
    layout = layout_of({"l": 0, "r": 0, "t": 0, "b": 0}) | {
        "barmode": "overlay",
        "dragmode": False,
        "xaxis": {"range": [0, 1], "visible": False, "fixedrange": True},
        "yaxis": {"range": [len(rows) - 0.8, -0.55], "visible": False, "fixedrange": True},
        "annotations": [
            note
            for i, (label, _) in enumerate(rows)
            for note in (
                _note(plain(textwrap.shorten(str(label), 34, placeholder="…")), 0, i, "left"),
                _note(f"<b>{plain(texts[i])}</b>", 1, i, "right"),
            )
        ],
    }
    return panel(title, caption, [track, filled], layout, height=max(1, len(rows)) * 40 + 2)


OUTPUTS: Mapping[OutputKind, str] = {
    "class": "Prediction", "output": "Predicted numbers", "feature": "Strongest features",
}  # fmt: skip
"""What a panel of a model's outputs is called, by what one of them stands for."""


def note_on(prediction: Prediction) -> str:
    """What a model's outputs are, where they are no classes that exclude each other."""
    notes: Mapping[OutputKind, str] = {
        "class": "" if prediction.exclusive else "Each class stands for itself.",
        "output": "These are numbers, not probabilities.",
        "feature": "This model has no classes.",
    }
    return notes[prediction.kind]


def prediction_panel(
    prediction: Prediction, *, title: str = "", caption: str = "", highlight: int | None = 0
) -> Panel:
    """What a model says of the first picture: up to five classes, numbers or features.

    Args:
        prediction: of the picture.
        title: by default what the outputs are called.
        caption: below the title; before it stands what the bars are, where that is no softmax.
        highlight: index of the row in the accent colour; None for none.
    """
    top = prediction.top(5)
    return bars_panel(
        [(label, value) for _, label, value in top],
        title=title or OUTPUTS[prediction.kind],
        caption=" ".join(filter(None, [note_on(prediction), caption])),
        highlight=highlight,
        shares=prediction.bounded,
        texts=[prediction.text(value) for _, _, value in top],
        bars=prediction.kind != "output",
    )


def curves_panel(
    curves: Sequence[Curve],
    x_title: str,
    y_title: str,
    *,
    title: str = "",
    caption: str = "",
    height: int = 360,
) -> Panel:
    """Curves over common axes; controls are dashed and grey.

    Args:
        curves: the curves, in the order of the legend.
        x_title: title of the horizontal axis.
        y_title: title of the vertical axis.
        title: title of the panel.
        caption: text below the title, one or two sentences.
        height: height in CSS pixels without the legend.

    Raises:
        TimmscopeError: the x and y of a curve differ in length.
    """
    styles = _line_styles()
    data = [_line(curve, styles) for curve in curves]
    legend_rows = -(-len(curves) // 2)
    layout = layout_of({"l": 8, "r": 12, "t": 8, "b": 8}) | {
        "dragmode": "zoom",
        "uirevision": f"{x_title}|{y_title}",
        "hovermode": "closest",
        "showlegend": True,
        "xaxis": _axis(x_title),
        "yaxis": _axis(y_title),
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "yref": "paper"},
    }
    return panel(title, caption, data, layout, height=height + 20 * legend_rows)


def matrix_panel(
    table: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    title: str = "",
    caption: str = "",
    limits: tuple[float, float] = (0.0, 1.0),
) -> Panel:
    """A square matrix as a heatmap with the numbers in its cells.

    Names stand above their rows, numbered, and the columns have the numbers: names of any number
    and length stay legible on a narrow page.

    Args:
        table: (m, m) numbers, rows from top to bottom; NaN where there is none.
        names: names of the m rows and columns.
        title: title of the panel.
        caption: text below the title, one or two sentences.
        limits: the values with the lightest and the strongest colour.
    """
    at = list(range(len(names)))
    ticks = {
        "tickvals": at, "ticktext": [str(i + 1) for i in at], "showgrid": False, "zeroline": False,
        "fixedrange": True,
    }  # fmt: skip
    layout = layout_of({"l": 0, "r": 0, "t": 0, "b": 24}) | {
        "dragmode": False,
        "xaxis": ticks | {"side": "bottom"},
        "yaxis": ticks | {"range": [len(names) - 0.5, -0.75], "showticklabels": False},
        "annotations": [_row_name(name, i) for i, name in enumerate(names)],
    }
    trace = _cells(table, names, limits) | {"x": at, "y": at}
    return panel(title, caption, [trace], layout, height=36 + MATRIX_ROW * len(names))


def _cells(
    table: Sequence[Sequence[float]], names: Sequence[str], limits: tuple[float, float]
) -> Json:
    """A heatmap with the numbers in its cells, and room above each row for its name."""
    rows = [[finite_or_none(value) for value in row] for row in table]
    return {
        "type": "heatmap",
        "z": rows,
        "zmin": limits[0],
        "zmax": limits[1],
        "colorscale": [[0, "rgba(99,102,241,0.04)"], [1, "rgba(99,102,241,0.75)"]],
        "showscale": False,
        "xgap": 2,
        "ygap": MATRIX_ROW - 24,
        "text": [["?" if v is None else f"{round(v, 2) + 0.0:.2f}" for v in row] for row in rows],
        "texttemplate": "%{text}",
        "textfont": {"size": 12 if len(names) <= 7 else 9},
        "customdata": [[f"{plain(a)} and {plain(b)}" for b in names] for a in names],
        "hovertemplate": "%{customdata}: <b>%{z:.3f}</b><extra></extra>",
    }


def _row_name(name: str, row: int) -> Json:
    """The name of a row of a matrix, above its cells: there it may be as long as the row."""
    return {
        "text": f"{row + 1}  {plain(name if len(name) <= 42 else name[:41] + '…')}",
        "x": 0, "xref": "paper", "xanchor": "left", "y": row - 0.5, "yref": "y",
        "yanchor": "middle", "align": "left", "showarrow": False, "font": {"size": 12},
        "borderpad": 0,
    }  # fmt: skip


def _note(text: str, x: float, y: float, side: str) -> Json:
    return {
        "text": text, "x": x, "xref": "x", "xanchor": side, "y": y - 0.16, "yref": "y",
        "yanchor": "bottom", "align": side, "showarrow": False, "font": {"size": 13},
        "borderpad": 0,
    }  # fmt: skip


def _line(curve: Curve, styles: Mapping[str, Iterator[Json]]) -> Json:
    name, x, y = str(curve["name"]), finite(curve["x"]), finite(curve["y"])
    if len(x) != len(y):
        raise TimmscopeError(
            f"curve {name!r} has {len(x)} x but {len(y)} y values; give as many of each"
        )
    auc = curve.get("auc")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x.tolist(),
        "y": y.tolist(),
        # The area first: a long name is cut off at the edge of a narrow page.
        "name": ("" if auc is None else f"<b>{auc:.3f}</b>  ") + plain(name),
        "text": plain(name),
        "line": next(styles[curve.get("style", "solid")]),
        "hovertemplate": "%{text}<br>%{x:.3~g}, <b>%{y:.4~g}</b><extra></extra>",
    }


def _axis(title: str) -> Json:
    return {
        "title": {"text": plain(title), "standoff": 8, "font": {"size": 12}},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "nticks": 6,
    }


def _line_styles() -> dict[str, Iterator[Json]]:
    """Line styles for successive curves: colours for methods, dash patterns for controls."""
    return {
        "solid": ({"color": c, "width": 2.25, "dash": "solid"} for c in itertools.cycle(CYCLE)),
        "dash": (
            {"color": CONTROL, "width": 1.5, "dash": d} for d in itertools.cycle(CONTROL_DASHES)
        ),
    }

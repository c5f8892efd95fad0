"""Colours of maps: colormaps, colour ranges, and overlays on a picture.

A map with positive and negative values gets a diverging colormap centred on zero, so that one
colour always means "for the target" and the other "against the target". A map of one sign gets a
sequential colormap. Which range of values has the colours says `core.views.display`. The values
themselves are never rescaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
import plotly.colors
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from core.errors import TimmscopeError, unknown

Rgb = tuple[int, int, int]
Kind = Literal["sequential", "diverging"]
Limits = tuple[float, float]

ROUNDING = 1e-6
"""A negative value below this share of the largest magnitude counts as rounding error."""


class MapGeometry(Protocol):
    """Where a map lies on its picture; `core.inputs.preprocessing.Geometry` is one."""

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of the picture."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge of the model's input, in picture pixels."""

    @property
    def whole(self) -> bool:
        """Whether the model's input shows the whole picture."""


@dataclass(frozen=True, slots=True)
class Colormap:
    """A named mapping from numbers to colours.

    Attributes:
        name: its name.
        kind: `sequential` for magnitudes, `diverging` for signed values (red is positive).
        stops: pairs of a position, ascending from 0 to 1, and a colour (red, green, blue) from 0 to
            255; colours between stops are interpolated linearly in sRGB.
    """

    name: str
    kind: Kind
    stops: tuple[tuple[float, Rgb], ...]


def _plotly(group: object, name: str, flip: bool = False) -> list[Rgb]:
    colours: list[str] = getattr(group, name)
    rgb = [
        plotly.colors.hex_to_rgb(c) if c.startswith("#") else plotly.colors.unlabel_rgb(c)
        for c in (reversed(colours) if flip else colours)
    ]
    return [(int(r), int(g), int(b)) for r, g, b in rgb]


def _colormap(
    name: str, kind: Kind, colours: Sequence[Rgb], positions: Sequence[float] | None = None
) -> Colormap:
    at = positions or [i / (len(colours) - 1) for i in range(len(colours))]
    return Colormap(name, kind, tuple(zip(map(float, at), colours, strict=True)))


def _all_colormaps() -> list[Colormap]:
    one, two = plotly.colors.sequential, plotly.colors.diverging
    return [
        *(_colormap(n, "sequential", _plotly(one, n.capitalize()))
          for n in ("viridis", "inferno", "magma", "plasma", "cividis", "turbo")),
        _colormap("jet", "sequential", _plotly(one, "Jet"), (0, 0.125, 0.375, 0.625, 0.875, 1)),
        _colormap("hot", "sequential", _plotly(one, "Hot"), (0, 0.3, 0.6, 1)),
        _colormap("gray", "sequential", [(0, 0, 0), (255, 255, 255)]),
        _colormap("RdBu", "diverging", _plotly(two, "RdBu", flip=True)),
        _colormap("coolwarm", "diverging",
                  [(59, 76, 192), (124, 159, 249), (221, 221, 221), (245, 156, 125), (180, 4, 38)]),
        _colormap("PuOr", "diverging", _plotly(two, "PuOr", flip=True)),
        _colormap("PiYG", "diverging", _plotly(two, "PiYG")),
        _colormap("Spectral", "diverging", _plotly(two, "Spectral", flip=True)),
    ]  # fmt: skip


COLORMAPS: Mapping[str, Colormap] = MappingProxyType({c.name: c for c in _all_colormaps()})
"""All colormaps by name, sequential ones first."""


def colormap(name: str) -> Colormap:
    """The colormap called `name`; case is ignored.

    >>> colormap("rdbu").kind
    'diverging'

    Raises:
        UnknownNameError: there is no such colormap.
    """
    for known in COLORMAPS.values():
        if known.name.lower() == str(name).lower():
            return known
    raise unknown("colormap", name, COLORMAPS)


def default_colormap(signed: bool) -> str:
    """The default colormap of signed or unsigned maps.

    >>> default_colormap(signed=False), default_colormap(signed=True)
    ('inferno', 'RdBu')
    """
    return "RdBu" if signed else "inferno"


@cache
def lut(name: str) -> NDArray[np.uint8]:
    """The colormap as a read-only lookup table (256, 3) of uint8 RGB.

    >>> lut("gray")[[0, 128, 255], 0]
    array([  0, 128, 255], dtype=uint8)
    """
    positions, colours = zip(*colormap(name).stops, strict=True)
    at = np.linspace(0, 1, 256)
    channels = [np.interp(at, positions, channel) for channel in zip(*colours, strict=True)]
    table = np.stack(channels, axis=-1).round().astype(np.uint8)
    table.setflags(write=False)
    return table


def opacity(signed: bool, position: NDArray[np.floating]) -> NDArray[np.floating]:
    """Opacity from 0 to 1 of positions in the colour range when weak values are hidden.

    It is 1 at the ends of the range and 0 at the value zero, or at the start of a range in which
    zero does not lie.

    Args:
        signed: whether the range is symmetric around zero.
        position: positions in the range, from 0 to 1.

    >>> opacity(False, np.array([0, 0.5, 1])), opacity(True, np.array([0, 0.5, 1]))
    (array([0. , 0.5, 1. ]), array([1., 0., 1.]))
    """
    return abs(2 * position - 1) if signed else position


def stops(name: str, signed: bool | None = None) -> list[tuple[float, Rgb, float]]:
    """The stops of a colormap over a map's range, as (position, colour, opacity of `opacity`).

    Args:
        name: name of a colormap.
        signed: whether the range is symmetric around zero; None uses the colormap's own kind. For a
            range that starts at zero, only the upper half of a diverging colormap is used, so that
            its middle colour still means zero.

    >>> stops("gray")
    [(0.0, (0, 0, 0), 0.0), (1.0, (255, 255, 255), 1.0)]
    >>> stops("coolwarm", signed=False)[0]
    (0.0, (221, 221, 221), 0.0)
    """
    known = colormap(name)
    signed = known.kind == "diverging" if signed is None else signed
    points = dict(known.stops)
    if known.kind == "diverging" and not signed:
        points = {2 * at - 1: colour for at, colour in known.stops if at >= 0.5}
    if signed and 0.5 not in points:
        # Without a stop at zero, the opacity would not be 0 there.
        red, green, blue = (int(c) for c in lut(name)[127:129].mean(axis=0).round())
        points[0.5] = (red, green, blue)
    at = np.array(sorted(points))
    return [
        (float(p), points[p], round(float(a), 4))
        for p, a in zip(at, opacity(signed, at), strict=True)
    ]


def stops_json(
    name: str, fade: bool = False, signed: bool | None = None
) -> list[list[float | str]]:
    """The colormap as Plotly's ``colorscale``: ``[[0, 'rgb(..)'], ..., [1, 'rgb(..)']]``.

    Args:
        name: name of a colormap.
        fade: whether weak values are transparent, see `opacity`.
        signed: see `stops`.

    >>> stops_json("gray")
    [[0.0, 'rgb(0,0,0)'], [1.0, 'rgb(255,255,255)']]
    >>> stops_json("gray", fade=True)
    [[0.0, 'rgba(0,0,0,0)'], [1.0, 'rgba(255,255,255,1)']]
    """
    return [
        [at, f"rgba({r},{g},{b},{alpha:g})" if fade else f"rgb({r},{g},{b})"]
        for at, (r, g, b), alpha in stops(name, signed)
    ]


def finite(values: ArrayLike) -> NDArray[np.float32]:
    """The values as float32, after checking that they are finite.

    Raises:
        TimmscopeError: a value is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float32)
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise TimmscopeError(
            f"{bad} of the map's {array.size} values are not finite numbers; "
            "compute the map in float32 or with other parameters"
        )
    return array


def is_signed(values: ArrayLike) -> bool:
    """Whether any value is negative by more than rounding error.

    >>> is_signed([0.0, 1.0, -1e-9]), is_signed([1.0, -0.1])
    (False, True)
    """
    array = finite(values)
    return bool(array.size) and float(array.min()) < -ROUNDING * float(abs(array).max())


def limits(values: ArrayLike, *, signed: bool | None = None, percentile: float = 100) -> Limits:
    """The colour range (low, high) of one map, or of several maps that share it.

    The range of a signed map is symmetric, so that zero has the middle colour. Other ranges start
    at zero. If all values are zero, the upper limit is 1.

    Args:
        values: values of any shape.
        signed: whether the range is symmetric; None finds out from the values.
        percentile: percentage in (0, 100] of magnitudes inside the range; larger magnitudes get the
            end colours.

    Raises:
        TimmscopeError: a value is not finite, or the percentile is outside (0, 100].

    >>> limits([0.0, 2.0]), limits([-1.0, 3.0]), limits([0.0, 0.0])
    ((0.0, 2.0), (-3.0, 3.0), (0.0, 1.0))
    """
    if not 0 < percentile <= 100:
        raise TimmscopeError(f"percentile is {percentile}; give a number above 0 and at most 100")
    array = finite(values)
    signed = is_signed(array) if signed is None else signed
    magnitude = abs(array) if signed else array.clip(min=0)
    # A sparse map may be zero at the percentile; then its largest value is the limit.
    tops = (float(np.percentile(magnitude, p)) for p in (percentile, 100) if array.size)
    top = next((t for t in tops if t >= float(np.finfo(np.float32).tiny)), 1.0)
    return (-top if signed else 0.0, top)


def is_diverging(limits: Limits) -> bool:
    """Whether zero lies within a colour range; then it has the middle colour.

    >>> is_diverging((-1.0, 1.0)), is_diverging((0.0, 1.0)), is_diverging((3.0, 4.0))
    (True, False, False)
    """
    return limits[0] < 0 < limits[1]


def _positions(values: ArrayLike, limits: Limits) -> NDArray[np.float64]:
    low, high = limits
    if not low < high:
        raise TimmscopeError(
            f"the colour range {low:g} to {high:g} is empty; give a low limit below the high limit"
        )
    return ((np.asarray(finite(values), np.float64) - low) / (high - low)).clip(0, 1)


def colourise(values: ArrayLike, colormap: str, limits: Limits) -> NDArray[np.uint8]:
    """Maps values (H, W) to colours (H, W, 3) uint8; values outside the range get the end colours.

    >>> colourise([[0, 5, 10]], "gray", (0, 10)).tolist()
    [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    """
    row = (_positions(values, limits) * 255).round().astype(np.uint8)
    colours: NDArray[np.uint8] = _table(colormap, signed=is_diverging(limits))[row]
    return colours


def _table(name: str, signed: bool) -> NDArray[np.uint8]:
    if signed or colormap(name).kind == "sequential":
        return lut(name)
    upper: NDArray[np.uint8] = lut(name)[np.linspace(127.5, 255, 256).round().astype(int)]
    return upper


ALPHA = 0.65
"""Opacity of maps over pictures, on the page and in files, until somebody says otherwise."""


def overlay(
    picture: Image.Image,
    values: ArrayLike,
    geometry: MapGeometry,
    colormap: str = "auto",
    alpha: float = ALPHA,
    fade: bool = False,
    *,
    limits: Limits | None = None,
    cut: float = 0.0,
    side: int = 2048,
) -> Image.Image:
    """The picture with a map drawn over the area of the model's input, upsampled bilinearly.

    Args:
        picture: a picture in any mode.
        values: (h, w) on any grid over the geometry's box.
        geometry: the position of the box; it is outlined if it is not the whole picture.
        colormap: name of a colormap, or "auto" for the default of the map.
        alpha: opacity of the map, from 0 to 1.
        fade: whether weak values are transparent.
        limits: colour range; None uses that of the map.
        cut: values nearer to zero than this are transparent.
        side: longest side of the result in pixels; larger pictures are scaled down.

    Returns:
        An RGB picture with the proportions of the original.

    Raises:
        TimmscopeError: a value is not finite, or the colour range is empty.
        UnknownNameError: there is no such colormap.
    """
    array = finite(values)
    span = _given_or_own(limits, array)
    name = default_colormap(signed=is_diverging(span)) if colormap == "auto" else colormap
    scale = min(1.0, side / max(picture.size))
    canvas = picture.convert("RGB").resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
        Image.Resampling.LANCZOS,
    )
    left, top, right, bottom = (round(edge * scale) for edge in geometry.box)
    size = (max(1, right - left), max(1, bottom - top))
    spread = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BILINEAR))
    canvas.paste(
        Image.fromarray(colourise(spread, name, span)),
        (left, top),
        _mask(spread, span, alpha, fade, cut),
    )
    if not geometry.whole:
        _outline(canvas, (left, top, left + size[0] - 1, top + size[1] - 1))
    return canvas


def _given_or_own(given: Limits | None, values: NDArray[np.float32]) -> Limits:
    return given or limits(values)


def _mask(
    values: NDArray[np.float32], limits: Limits, alpha: float, fade: bool, cut: float
) -> Image.Image:
    shown: NDArray[np.floating] = np.ones(values.shape)
    if fade:
        shown = opacity(is_diverging(limits), _positions(values, limits))
    shown = np.where(np.abs(values) < cut, 0.0, shown)
    return Image.fromarray((shown * alpha * 255).round().clip(0, 255).astype(np.uint8))


def _outline(canvas: Image.Image, box: tuple[int, int, int, int]) -> None:
    # A white line inside a black one is visible on any picture.
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = box
    pen.rectangle(box, outline=(0, 0, 0))
    if right - left > 2 and bottom - top > 2:
        pen.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=(255, 255, 255))

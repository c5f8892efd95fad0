"""Synthetic scenes in which the pixels that show the evidence are known.

A scene shows one object, or two objects of different classes side by side, on a textured background
with distractors: blobs, bars, shapes of no class, and patches of texture with more contrast than
any object. Background and distractors do not depend on the class, so only the pixels of an object
identify its class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Shape = Callable[[Floats, Floats], Mask]
"""A mask over coordinates (u, v): True inside a form, which fits into the unit circle, or where a
pattern has its second colour."""

SIDE = 96
"""Height and width of a picture, in pixels."""
HELD_OUT = 1_000_000
"""Seeds from this number on are not used in training."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture with its objects.

    Attributes:
        picture: (SIDE, SIDE, 3) uint8.
        ground: (SIDE, SIDE, 3) uint8, the background with distractors but without objects.
        classes: the class of each object, an index into `CLASSES`.
        masks: (objects, SIDE, SIDE) the pixels of each object.
    """

    picture: Pixels
    ground: Pixels
    classes: tuple[int, ...]
    masks: Mask


def scene(seed: int, objects: int = 1) -> Scene:
    """The scene of a seed. It is deterministic.

    Args:
        seed: 0 or more.
        objects: number of objects: 1, rarely in the centre, or 2 of different classes, side by
            side.

    >>> found = scene(HELD_OUT)
    >>> found.picture.shape, found.masks.shape, CLASSES[found.classes[0]]
    ((96, 96, 3), (1, 96, 96), 'ringed star')
    """
    rng = np.random.default_rng((seed, objects))
    ground = _ground(rng)
    for kind in (0, 0, *rng.integers(len(_DISTRACTORS), size=rng.integers(3, 6))):
        _DISTRACTORS[kind](rng, ground)
    before = _to_pixels(ground)
    classes = tuple(int(c) for c in rng.choice(len(CLASSES), objects, replace=False))
    circles = [_off_centre(rng)] if objects == 1 else [_half(rng, side) for side in range(objects)]
    masks = [_paint(rng, ground, _KINDS[c], at) for c, at in zip(classes, circles, strict=True)]
    return Scene(_to_pixels(ground), before, classes, np.stack(masks))


# -- classes --------------------------------------------------------------------------------------


def _star(points: int, notch: float) -> Shape:
    """A star whose inner corners have radius `notch`; a regular polygon for a suitable radius."""
    half = math.pi / points
    across, up = notch * math.cos(half) - 1, notch * math.sin(half)

    def inside(u: Floats, v: Floats) -> Mask:
        folded = np.abs((np.arctan2(v, u) + half) % (2 * half) - half)
        radius = np.hypot(u, v)
        return np.asarray(across * radius * np.sin(folded) >= up * (radius * np.cos(folded) - 1))

    return inside


def _disc(u: Floats, v: Floats) -> Mask:
    return np.asarray(u**2 + v**2 <= 0.85)


def _square(u: Floats, v: Floats) -> Mask:
    return np.asarray(np.maximum(np.abs(u), np.abs(v)) <= 0.7)


def _cross(u: Floats, v: Floats) -> Mask:
    short, long = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return np.asarray((short <= 0.4) & (long <= 0.9))


def _stripes(u: Floats, _v: Floats) -> Mask:
    return np.asarray(np.sin(2 * np.pi * u / 0.4) > 0)


def _checks(u: Floats, v: Floats) -> Mask:
    return np.asarray(np.sin(np.pi * u / 0.32) * np.sin(np.pi * v / 0.32) > 0)


def _dots(u: Floats, v: Floats) -> Mask:
    return np.asarray(np.hypot(u % 0.44 - 0.22, v % 0.44 - 0.22) < 0.14)


def _rings(u: Floats, v: Floats) -> Mask:
    return np.asarray(np.sin(2 * np.pi * np.hypot(u, v) / 0.42) > 0)


def _hatching(u: Floats, v: Floats) -> Mask:
    lines = np.minimum(np.abs(u % 0.36 - 0.18), np.abs(v % 0.36 - 0.18))
    return np.asarray(lines < 0.055)


def _spokes(u: Floats, v: Floats) -> Mask:
    return np.asarray(np.sin(6 * np.arctan2(v, u)) > 0)


_BY_NAME: dict[str, tuple[Shape, Shape]] = {
    "striped disc": (_disc, _stripes),
    "checked square": (_square, _checks),
    "dotted triangle": (_star(3, math.cos(math.pi / 3)), _dots),
    "ringed star": (_star(5, 0.5), _rings),
    "hatched cross": (_cross, _hatching),
    "spoked hexagon": (_star(6, math.cos(math.pi / 6)), _spokes),
}
CLASSES = tuple(_BY_NAME)
"""Names of the classes. Each has its own form and pattern; colours do not depend on the class."""
_KINDS = tuple(_BY_NAME.values())


# -- positions and painting -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Circle:
    """The circle around a shape, in pixels, and the rotation of the shape, in radians."""

    x: float
    y: float
    radius: float
    angle: float

    def box(self) -> tuple[slice, slice]:
        """The rows and columns of the circle's bounding box, cut at the border."""
        rows, columns = (
            slice(max(0, math.floor(at - self.radius)), min(SIDE, math.ceil(at + self.radius)))
            for at in (self.y, self.x)
        )
        return rows, columns

    def coordinates(self) -> tuple[Floats, Floats]:
        """(u, v) of the pixel centres in the box, in units of the radius."""
        rows, columns = self.box()
        down = np.arange(rows.start, rows.stop)[:, None] + 0.5 - self.y
        right = np.arange(columns.start, columns.stop)[None] + 0.5 - self.x
        cos, sin = math.cos(self.angle) / self.radius, math.sin(self.angle) / self.radius
        return right * cos + down * sin, down * cos - right * sin


def _off_centre(rng: np.random.Generator) -> _Circle:
    """A circle inside the picture, rarely in the centre."""
    while True:
        radius = rng.uniform(15, 22)
        x, y = rng.uniform(radius, SIDE - radius, 2)
        if math.hypot(x - SIDE / 2, y - SIDE / 2) > 0.22 * SIDE or rng.random() < 0.1:
            return _Circle(x, y, radius, rng.uniform(0, 2 * math.pi))


def _half(rng: np.random.Generator, side: int) -> _Circle:
    """A circle inside the left half (side 0) or the right half (side 1)."""
    radius = rng.uniform(15, 21)
    x = side * SIDE / 2 + rng.uniform(radius, SIDE / 2 - radius)
    return _Circle(x, rng.uniform(radius, SIDE - radius), radius, rng.uniform(0, 2 * math.pi))


def _anywhere(rng: np.random.Generator, least: float, most: float) -> _Circle:
    """A circle for a distractor; it may be cut at the border."""
    x, y = rng.uniform(0, SIDE, 2)
    return _Circle(x, y, rng.uniform(least, most), rng.uniform(0, 2 * math.pi))


def _paint(
    rng: np.random.Generator, picture: Floats, kind: tuple[Shape, Shape], circle: _Circle
) -> Mask:
    """Paints an object onto `picture` and returns the mask of its pixels."""
    form, pattern = kind
    u, v = circle.coordinates()
    inside = form(u, v)
    colours = _two_colours(rng, 0.3, 0.55)
    picture[circle.box()][inside] = colours[pattern(u, v)[inside].astype(int)]
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[circle.box()] = inside
    return mask


def _two_colours(rng: np.random.Generator, least: float, most: float) -> Floats:
    """Two colours (2, 3) in [0, 1] whose mean values differ by `least` to `most`."""
    while True:
        colours = rng.random((2, 3))
        if least <= abs(float(colours[0].mean() - colours[1].mean())) <= most:
            return colours


def _to_pixels(picture: Floats) -> Pixels:
    return np.asarray(np.rint(picture.clip(0, 1) * 255), dtype=np.uint8)


# -- ground ---------------------------------------------------------------------------------------


def _interpolation(cells: int) -> Floats:
    """The matrix (SIDE, cells) of linear interpolation from `cells` to SIDE points."""
    at = np.linspace(0, cells - 1, SIDE)[:, None]
    return np.asarray(np.maximum(0, 1 - np.abs(at - np.arange(cells)[None])))


_SMOOTH = {cells: _interpolation(cells) for cells in (3, 8, 24)}


def _noise(rng: np.random.Generator, cells: int) -> Floats:
    """Smooth noise (SIDE, SIDE, 3) in [-0.5, 0.5] with about `cells` bumps along a side."""
    coarse = rng.random((3, cells, cells)) - 0.5
    return np.asarray(np.moveaxis(_SMOOTH[cells] @ coarse @ _SMOOTH[cells].T, 0, 2))


def _ground(rng: np.random.Generator) -> Floats:
    """A background: a colour gradient, noise at three scales, soft stripes and grain."""
    strengths = rng.uniform(0.1, 0.6, 3)
    layers = [s * _noise(rng, cells) for s, cells in zip(strengths, _SMOOTH, strict=True)]
    u, v = _Circle(SIDE / 2, SIDE / 2, SIDE / 2, rng.uniform(0, 2 * math.pi)).coordinates()
    waves = np.sin(2 * np.pi * u / rng.uniform(0.3, 0.8)) * rng.uniform(0, 0.25)
    tint = rng.uniform(-0.25, 0.25, 3)
    grain = rng.standard_normal((SIDE, SIDE, 1)) * rng.uniform(0.02, 0.1)
    picture = rng.uniform(0.2, 0.8, 3) + sum(layers) + v[..., None] * tint + waves[..., None]
    return np.asarray(picture + grain)


# -- distractors ----------------------------------------------------------------------------------


def _irregular(rng: np.random.Generator, u: Floats, v: Floats) -> Mask:
    """An irregular, elongated form that differs from those of all classes."""
    angle, (a, b) = np.arctan2(v, u), rng.uniform(0, 2 * math.pi, 2)
    rim = 0.65 + 0.2 * np.sin(2 * angle + a) + 0.15 * np.sin(3 * angle + b)
    return np.asarray(np.hypot(u, v * rng.uniform(1, 1.8)) <= rim)


def _patch(rng: np.random.Generator, picture: Floats) -> None:
    """A two-coloured random texture with more and stronger edges than an object."""
    circle = _anywhere(rng, 14, 24)
    inside = _irregular(rng, *circle.coordinates())
    grain = int(rng.integers(1, 4))
    texture = rng.random((SIDE // grain + 1,) * 2).repeat(grain, 0).repeat(grain, 1) > 0.5
    height, width = inside.shape
    chosen = texture[:height, :width][inside].astype(int)
    picture[circle.box()][inside] = _two_colours(rng, 0.6, 1.0)[chosen]


def _plain(rng: np.random.Generator, picture: Floats) -> None:
    """A form of one colour."""
    circle = _anywhere(rng, 10, 24)
    picture[circle.box()][_irregular(rng, *circle.coordinates())] = rng.random(3)


def _bar(rng: np.random.Generator, picture: Floats) -> None:
    """A long bar of one colour."""
    circle = _anywhere(rng, 20, 60)
    u, v = circle.coordinates()
    width = rng.uniform(1, 3.5) / circle.radius
    picture[circle.box()][(np.abs(v) <= width) & (np.abs(u) <= 0.98)] = rng.random(3)


def _blob(rng: np.random.Generator, picture: Floats) -> None:
    """A bright or dark blob without an edge."""
    circle = _anywhere(rng, 12, 30)
    u, v = circle.coordinates()
    light = (1 - u**2 - v**2).clip(0)[..., None] * rng.uniform(-0.8, 0.8, 3)
    picture[circle.box()] += light


_DISTRACTORS = (_patch, _plain, _bar, _blob)

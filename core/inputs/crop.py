"""Which part of a picture a model sees, where a person chooses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.errors import PictureError, TimmscopeError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of a picture, in its pixels."""
Crop = Literal["whole"] | Box | None
"""The part of a picture that a model is to see: the whole of it, a box, or None for what the
model's own preprocessing cuts out."""
CropLike = str | Sequence[float] | None
"""A `Crop`, or a box as text: "left,top,right,bottom"."""
Crops = CropLike | Sequence[CropLike]
"""A crop for all of several pictures, or one for each."""
WHOLE: Literal["whole"] = "whole"
"""The whole picture, padded to the aspect of the model's input."""
FARTHEST = 1_000_000
"""How far from the picture's corner an edge of a box may be, in pixels."""
_WAY_OUT = (
    "give left,top,right,bottom in pixels of the picture, such as 150,0,450,300, or 'whole' for "
    "all of it"
)


def read_crop(value: CropLike) -> Crop:
    """A crop from text or numbers.

    Args:
        value: "whole", a box as four numbers or as text, or None or "" for the model's own crop.

    Raises:
        TimmscopeError: it is no such thing, or the box has no area.

    >>> read_crop("10, 0, 30, 20"), read_crop("whole"), read_crop("")
    ((10.0, 0.0, 30.0, 20.0), 'whole', None)
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and value.strip().lower() == WHOLE:
        return WHOLE
    try:
        edges = tuple(float(one) for one in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        raise TimmscopeError(f"crop {_shown(value)} is no part of a picture; {_WAY_OUT}") from None
    if len(edges) != 4:
        raise TimmscopeError(f"crop {_shown(value)} has {len(edges)} numbers; {_WAY_OUT}")
    if not all(math.isfinite(edge) and abs(edge) <= FARTHEST for edge in edges):
        raise TimmscopeError(f"crop {_shown(value)} has an edge that is nowhere; {_WAY_OUT}")
    left, top, right, bottom = edges
    if right - left < 1 or bottom - top < 1:
        raise TimmscopeError(
            f"crop {_shown(value)} is less than a pixel wide or high, or its edges are in another "
            f"order; {_WAY_OUT}"
        )
    return left, top, right, bottom


def read_crops(value: Crops, pictures: int) -> tuple[Crop, ...]:
    """A crop for each of several pictures.

    Args:
        value: one for all, or a sequence with one for each.
        pictures: how many there are.

    Raises:
        TimmscopeError: one cannot be read, or their number is another.

    >>> read_crops(["whole", None], 2), read_crops((0, 0, 9, 9), 1)
    (('whole', None), ((0.0, 0.0, 9.0, 9.0),))
    """
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if not any(one is None or isinstance(one, str | Sequence) for one in several):
        return (read_crop(value),) * pictures  # type: ignore[arg-type]
    found = tuple(read_crop(one) for one in several)  # type: ignore[arg-type]
    if len(found) != pictures:
        raise TimmscopeError(
            f"{len(found)} crops are given for {pictures} picture(s); give one for all, or one "
            "for each"
        )
    return found


def crop_text(crop: Crop) -> str:
    """A crop as `read_crop` reads it; empty for the model's own.

    >>> crop_text((10.0, 0.5, 30.0, 20.0)), crop_text("whole"), crop_text(None)
    ('10,0.5,30,20', 'whole', '')
    """
    if crop is None or isinstance(crop, str):
        return crop or ""
    return ",".join(f"{edge:.15g}" for edge in crop)


@dataclass(frozen=True, slots=True)
class Window:
    """How a part of a picture is laid onto a model's input.

    Attributes:
        box: what the input shows, in pixels of the picture; beyond it where there is padding.
        source: the part of the picture that is resampled, in its pixels.
        target: left, top, right and bottom of it on the input, in whole pixels; what lies around
            is padding.
    """

    box: Box
    source: Box
    target: tuple[int, int, int, int]


def window_of(
    crop: Literal["whole"] | Box, picture: tuple[int, int], size: tuple[int, int], name: str = ""
) -> Window:
    """The window onto a picture that a crop asks for; nothing is cut and nothing is squashed.

    A box whose aspect is another than the input's is extended on both sides. The picture begins at
    a whole pixel of the input, as in timm's own padding, so pixels may be narrower than high by up
    to half a pixel in the length of the input.

    Args:
        crop: the part asked for.
        picture: height and width of the picture.
        size: height and width of the model's input.
        name: of the picture, for messages.

    Raises:
        PictureError: the box lies outside of the picture.

    >>> window_of("whole", (100, 200), (50, 50)).box
    (0.0, -48.0, 200.0, 152.0)
    """
    height, width = picture
    left, top, right, bottom = (0.0, 0.0, width, height) if crop == WHOLE else crop
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise PictureError(
            f"crop {crop_text(crop)} lies outside of {name!r}, which is {width} x {height} pixels; "
            f"{_WAY_OUT}"
        )
    across, down = (right - left) / size[1], (bottom - top) / size[0]
    scale = max(across, down)
    x = _along(*_extended(left, right, scale, size[1]), width, size[1])
    y = _along(*_extended(top, bottom, scale, size[0]), height, size[0])
    return Window(
        (x.start, y.start, x.end, y.end),
        (x.low, y.low, x.high, y.high),
        (x.first, y.first, x.last, y.last),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """A window along one side: what it shows, of the picture, and where that is on the input."""

    start: float
    end: float
    low: float
    high: float
    first: int
    last: int


def _extended(start: float, end: float, scale: float, length: int) -> tuple[float, float]:
    """The ends of a side that is to be `length` input pixels of `scale` picture pixels long.

    One that lacks less than an input pixel stays: it comes from rounding, as in a model's own crop.
    """
    lacking = scale * length - (end - start)
    return (start, end) if lacking < scale else (start - lacking / 2, end + lacking / 2)


def _along(start: float, end: float, full: int, length: int) -> _Side:
    """The window from `start` to `end` along a side of `full` pixels, on `length` input pixels."""
    scale = (end - start) / length
    low, high = max(start, 0.0), min(end, float(full))
    first = min(round((low - start) / scale), length - 1)
    count = max(round((high - low) / scale), 1)
    last = length if high == end else min(first + count, length)
    scale = (high - low) / (last - first)
    return _Side(low - first * scale, high + (length - last) * scale, low, high, first, last)


def _shown(value: object) -> str:
    return repr(value)[:80]

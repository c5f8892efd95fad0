"""Reads what Pillow cannot read of a TIFF: several bands, and colours of more than 8 bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import PictureError
from core.inputs.pixels import declared_white

_BITS, _FORMAT, _LARGEST, _SIGNED_LARGEST = 258, 339, 281, 341
_ORIENTATION = 274
MAX_VALUES = 2**27
"""Largest number of values of all bands, which take 4 bytes each."""


def is_tiff(head: bytes) -> bool:
    """Whether a file begins as a TIFF does."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def white_of(image: Image.Image) -> float | None:
    """The white that an opened TIFF declares, as `declared_white` says; None for other files."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    bits = _number(tags.get(_BITS)) or 1
    return declared_white(int(bits), _number(tags.get(_SIGNED_LARGEST, tags.get(_LARGEST))))


def is_signed_16(image: Image.Image) -> bool:
    """Whether an opened TIFF has signed values of 16 bits."""
    tags = getattr(image, "tag_v2", {})
    return (_number(tags.get(_BITS)), _number(tags.get(_FORMAT))) == (16, 2)


def _number(value: Any) -> float | None:
    """The first number of a tag; None if there is none."""
    first = value[0] if isinstance(value, tuple) and value else value
    return float(first) if isinstance(first, int | float) else None


def read_bands(
    stream: BinaryIO, label: str, check: Callable[[tuple[int, int]], None]
) -> tuple[NDArray[Any], float | None]:
    """The bands of a TIFF (H, W, C), or (H, W) if it has one, and the white that it declares.

    The bands are the samples of a pixel, or the pages.

    Args:
        stream: the file.
        label: its name in messages.
        check: refuses a (width, height); called before anything is decoded.

    Raises:
        PictureError: the file is damaged, too large, or of another kind.
    """
    from tifffile import TiffFile, TiffFileError

    try:
        with TiffFile(stream) as file:
            series = file.series[0]
            axes, shape = series.axes, series.shape
            if "Y" not in axes or "X" not in axes:
                raise PictureError(f"{label!r} is a TIFF without a picture; choose another")
            check((shape[axes.index("X")], shape[axes.index("Y")]))
            if math.prod(shape) > MAX_VALUES:
                raise PictureError(f"{label!r} is too large to decode; make it smaller first")
            values = np.moveaxis(series.asarray(), [axes.index("Y"), axes.index("X")], [0, 1])
            tags = file.pages.first.tags
            largest = _number(tags.valueof(_SIGNED_LARGEST, tags.valueof(_LARGEST)))
            white = declared_white(int(_number(tags.valueof(_BITS)) or 1), largest)
            values = _upright(values, tags.valueof(_ORIENTATION))
    except TiffFileError as error:
        raise PictureError(f"{label!r} is damaged or incomplete; save it again") from error
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise PictureError(
            f"{label!r} is compressed in a way that cannot be read here; save it uncompressed"
        ) from error
    if values.ndim > 3:
        raise PictureError(
            f"{label!r} is a TIFF of {' x '.join(map(str, shape))} values; save one picture, with "
            "its bands as samples or as pages"
        )
    return values, white


def _upright(values: NDArray[Any], orientation: object) -> NDArray[Any]:
    """An array (H, W, ...) turned and mirrored as the tag of that name says."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if orientation in (3, 4, 7, 8) else values

"""Numbers as pixels: which axis holds the channels, and which values are black and white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import PictureError

Range = tuple[float, float]
"""The values that are black and white."""
_DEPTHS = (255, 1023, 4095, 16383)
"""White in 8, 10, 12 and 14 bits."""


def channels_last(
    array: NDArray[Any], label: str, channels: int = 3, first: bool = False
) -> NDArray[Any]:
    """The array with its channels last: (H, W) if there is one channel, else (H, W, C).

    An axis holds the channels if its length is 1, 3, 4 or `channels`. If both ends could be it, the
    last one is taken for an array, as numpy, PIL and OpenCV store pictures, and the first one for
    a tensor, as torch does.

    Args:
        array: (H, W), (H, W, C) or (C, H, W).
        label: name of the picture in messages.
        channels: how many channels the model takes.
        first: whether the first axis is tried first.

    Raises:
        PictureError: no axis can hold the channels.

    >>> channels_last(np.zeros((3, 8, 9)), "x").shape, channels_last(np.zeros((8, 9, 1)), "x").shape
    ((8, 9, 3), (8, 9))
    >>> channels_last(np.zeros((3, 9, 4)), "x").shape
    (3, 9, 4)
    >>> channels_last(np.zeros((3, 9, 4)), "x", first=True).shape
    (9, 4, 3)
    """
    if array.ndim == 2 and array.size:
        return array
    if array.ndim == 3 and array.size:
        for axis in (0, 2) if first else (2, 0):
            if array.shape[axis] in {1, 3, 4, channels}:
                found = np.moveaxis(array, axis, 2)
                return found[..., 0] if found.shape[2] == 1 else found
    forms = "(H, W), (H, W, 3) or (H, W, 4)"
    if channels not in (1, 3, 4):
        forms = f"(H, W, {channels})"
    raise PictureError(
        f"{label!r} is an array of shape {array.shape}; give {forms}, or the channels first"
    )


def black_and_white(
    values: NDArray[Any],
    label: str,
    *,
    declared: float | None = None,
    value_range: Range | None = None,
    file: bool = False,
) -> tuple[Range, tuple[str, ...]]:
    """The values that are black and white, and notes on what was assumed.

    Bytes go from 0 to 255 and floats up to 1 from 0 to 1. Other numbers may use fewer bits than
    they are stored with, such as 12 of 16. So what they are is taken from `value_range` or from
    `declared`; without these, from the smallest usual white that holds them, but only if no
    smaller depth could: values up to 3,900 may be dark in 16 bits or bright in 12.

    Args:
        values: the values of a picture.
        label: its name in messages.
        declared: the white that the file declares.
        value_range: black and white as the caller says; not used for bytes.
        file: whether the values come from a file, in which numbers of any size are usual: negative
            values and values above 65535 are then shown from the smallest to the largest.

    Raises:
        PictureError: a value is NaN or infinite, or white is unknown.

    >>> black_and_white(np.array([[0, 40000]], np.uint16), "x")
    ((0, 65535), ())
    >>> black_and_white(np.array([[0, 3900]], np.uint16), "x", value_range=(0, 4095))
    ((0, 4095), ())
    """
    if values.dtype.kind not in "uif":
        raise _unsuitable(values, label)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise PictureError(f"{label!r} holds infinite or NaN values; replace them first")
    if values.dtype == np.uint8:
        return (0, 255), ()
    if value_range is not None:
        return value_range, ()
    if declared is not None and low >= 0:
        return (0, declared), ()
    if low < 0 or high > 65535:
        if not file:
            raise _unsuitable(values, label)
        return (low, high), (f"values from {low:g} to {high:g} shown as black to white",)
    if values.dtype.kind == "f" and high > 1 and not file:  # values in model units, most likely
        raise _unsuitable(values, label)
    white = _white(values.dtype, high)
    if white is None:
        raise _unclear(values, high, label) if file else _unsuitable(values, label)
    return (0, white), ()


def _white(kind: np.dtype[Any], high: float) -> int | None:
    """The usual white of values from 0 to `high`; None if more than one is likely."""
    if kind in (np.uint16, np.int16):
        return int(np.iinfo(kind).max) if high == 0 or high > _DEPTHS[-1] else None
    if high <= 1:
        return 1
    if high <= 255:
        return None if kind.kind == "f" and high < 64 else 255
    return 65535 if high > _DEPTHS[-1] else None


def _unclear(values: NDArray[Any], high: float, label: str) -> PictureError:
    white = next((depth for depth in _DEPTHS[1:] if high <= depth), 65535)
    return PictureError(
        f"{label!r} has values up to {high:g} and does not say which value is white; say it, such "
        f"as value_range=(0, {white}) among the preprocessing, or save it with 8 bits"
    )


def _unsuitable(values: NDArray[Any], label: str) -> PictureError:
    if values.dtype.kind not in "uif":
        return PictureError(f"{label!r} is an array of {values.dtype}; give uint8")
    return PictureError(
        f"{label!r} is an array of {values.dtype} from {values.min()} to {values.max()}; "
        "give uint8, or floats from 0 to 1, or say the values of black and white as value_range"
    )


def scaled(values: NDArray[Any], black_white: Range, top: float) -> NDArray[np.float32]:
    """Values as float32 from 0 (black) to `top` (white); what is beyond is clipped."""
    black, white = black_white
    found = (values.astype(np.float32) - black) * (top / ((white - black) or 1))
    return np.asarray(found.clip(0, top), dtype=np.float32)


def declared_white(bits: int, largest: float | None) -> float | None:
    """The white that a file declares; None if it is that of the whole container, or unknown.

    Args:
        bits: of a sample, as declared.
        largest: the declared largest value. It counts if it is the white of a number of bits;
            otherwise it is a fact about the data and not about white.

    >>> declared_white(12, None), declared_white(16, 1023), declared_white(16, 900)
    (4095, 1023, None)
    """
    if bits in (10, 12, 14):
        return (1 << bits) - 1
    if largest is not None and largest in (*_DEPTHS, 65535):
        return largest
    return None

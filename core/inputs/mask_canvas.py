"""MaskCanvas: draws the shapes of annotations, which are untrusted, within limits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import TimmscopeError

Mask = NDArray[np.bool_]
"""(H, W) True on the evidence, in pixels of the picture."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels of the picture."""

MOST_SHAPES = 10_000
"""The most shapes that are drawn."""
MOST_DRAWN = 20
"""The most pixels that are drawn, as a multiple of the picture's."""
MOST_OUTLINE = 2_000_000
"""The most pixels of outline that are drawn, all polygons together; each takes 100 bytes or so."""


class MaskCanvas:
    """A mask to draw shapes on. Every limit is checked before a shape is drawn.

    Args:
        size: height and width of the picture.

    Attributes:
        mask: (H, W) True where a shape was drawn.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.mask: Mask = np.zeros(size, dtype=bool)
        self._shapes = MOST_SHAPES
        self._pixels = MOST_DRAWN * size[0] * size[1]
        self._outline: float = MOST_OUTLINE

    def box(self, box: Box) -> None:
        """Draw a box: the pixels whose centres lie in it; none if an edge is NaN.

        Raises:
            TimmscopeError: a limit is exceeded.
        """
        if any(math.isnan(edge) for edge in box):
            return
        x0, y0, x1, y1 = box
        rows, columns = (
            slice(max(0, first), max(0, last))
            for first, last in ((_after(y0), _before(y1)), (_after(x0), _before(x1)))
        )
        part = self.mask[rows, columns]
        self._charge(part.size)
        part[:] = True

    def polygon(self, corners: Sequence[float]) -> None:
        """Draw a polygon by the rules of COCO; with fewer than three corners, nothing.

        Drawn by pycocotools, so that the mask is the one that COCO's own tools give. Its outline is
        rounded to a fifth of a pixel: at the edge, it may differ by a pixel from the set of pixels
        whose centres lie in the polygon. (scikit-image tests each pixel against each corner, which
        takes seconds for a large photograph.)

        Args:
            corners: x, y, x, y, ... in pixels of the picture.

        Raises:
            ValueError: the corners are not pairs of finite numbers.
            TimmscopeError: a limit is exceeded, or the polygon reaches far outside the picture.
        """
        from pycocotools import mask as coco

        x, y = (np.asarray(corners[axis::2], dtype=float) for axis in range(2))
        if len(x) != len(y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("the corners of a polygon are not pairs of numbers")
        if len(x) < 3:
            return
        left, right = self._span(x, self.mask.shape[1])
        top, bottom = self._span(y, self.mask.shape[0])
        edges = np.hypot(np.roll(x, -1) - x, np.roll(y, -1) - y)
        height, width = bottom - top, right - left
        self._charge(height * width, float(edges.sum()))
        points = np.stack([x - left, y - top], 1).ravel().tolist()
        drawn = coco.decode(coco.frPyObjects([points], height, width)[0]).astype(bool)
        rows, columns = slice(max(0, top), max(0, bottom)), slice(max(0, left), max(0, right))
        part = self.mask[rows, columns]
        part |= drawn[rows.start - top :, columns.start - left :][: part.shape[0], : part.shape[1]]

    def _span(self, edges: NDArray[np.float64], side: int) -> tuple[int, int]:
        """The first pixel that coordinates reach, and the one after the last."""
        first, last = math.floor(edges.min()), math.ceil(edges.max())
        if first < -side or last > 2 * side:
            raise TimmscopeError(
                "a polygon of the annotation reaches far outside the picture; give the annotation "
                "of this picture, at its size"
            )
        return first, max(last, first + 1)

    def run_lengths(self, size: Sequence[int], counts: str | Sequence[Any]) -> None:
        """Draw a mask in COCO's run-length encoding.

        Args:
            size: height and width of the mask.
            counts: the lengths of the runs column by column, off and on in turn; or a text of them
                as COCO compresses it.

        Raises:
            TimmscopeError: a limit is exceeded, the mask has another size than the picture, or the
                runs have another length than the mask.
        """
        from pycocotools import mask as coco

        height, width = self.mask.shape
        if tuple(size) != (height, width):
            raise TimmscopeError(
                f"a mask of {size[1]}x{size[0]} pixels does not fit a picture of {width}x{height}"
            )
        self._charge(height * width)
        if isinstance(counts, str):
            text = counts
        else:
            lengths = [int(n) for n in counts]
            if min(lengths, default=-1) < 0 or sum(lengths) != height * width:
                raise TimmscopeError("the run lengths of a mask do not add up to its size")
            encoded = {"size": [height, width], "counts": lengths}
            text = coco.frPyObjects(encoded, height, width)["counts"].decode()
        self.mask |= _decoded(text, height * width).reshape(width, height).T

    def _charge(self, pixels: int, outline: float = 0) -> None:
        """Count a shape before it is drawn, and refuse what exceeds the limits."""
        self._shapes -= 1
        self._pixels -= pixels
        self._outline -= outline
        if min(self._shapes, self._pixels, self._outline) < 0:
            raise TimmscopeError(
                f"the annotation draws more than {MOST_SHAPES:,} shapes, {MOST_DRAWN} times the "
                f"area of the picture, or {MOST_OUTLINE:,} pixels of outline; give only the "
                "objects that you ask about"
            )


def _after(edge: float) -> int:
    """The first pixel whose centre lies beyond an edge."""
    return math.floor(min(max(edge, -1.0), 1e9) + 0.5)


def _before(edge: float) -> int:
    """The number of pixels whose centres lie before an edge."""
    return math.ceil(min(max(edge, 0.0), 1e9) - 0.5)


def _decoded(counts: str, pixels: int) -> Mask:
    """(pixels,) the runs of a compressed text, checked first.

    pycocotools refuses runs that are too long for the mask, but reads on after a text that ends
    within a number, and leaves memory as it is where runs are too short. So we check the first, and
    for the second that the runs do not fit into one pixel less.
    """
    if re.search(r"[^0-o]|[P-o]{6}", counts) or not "0" <= counts[-1:] <= "O":
        raise TimmscopeError("the run lengths of a mask are no text that COCO's tools write")
    if _runs(counts, pixels - 1) is not None or (found := _runs(counts, pixels)) is None:
        raise TimmscopeError("the run lengths of a mask do not add up to its size")
    return found


def _runs(counts: str, pixels: int) -> Mask | None:
    """(pixels,) the runs of a compressed text; None if they are too long."""
    from pycocotools import mask as coco

    try:
        return np.asarray(coco.decode({"size": [pixels, 1], "counts": counts})[:, 0], dtype=bool)
    except ValueError:
        return None

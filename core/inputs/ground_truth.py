"""Where the evidence is, as people write it down: boxes, masks, VOC and COCO annotations.

A truth is a mask over the picture, True on the evidence. Files are untrusted like any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import TimmscopeError, unknown
from core.inputs.image import open_picture
from core.inputs.preprocessing import Geometry

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels of the picture."""

MAX_BYTES = 64 * 2**20
"""The largest annotation file that is read."""
MOST_SHAPES, MOST_DRAWN = 10_000, 20
"""Of an annotation: so many shapes, and so many times over the whole picture, are drawn."""
LONGEST_RUN = 40
"""Bits of a compressed run length."""
VOID = 255
"""In a VOC mask, pixels that belong to nothing for certain."""


_UNREADABLE = (
    ElementTree.ParseError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
"""What an annotation that is none makes of its reader."""


def ground_truth_of(
    source: str | Path | Sequence[Box] | Mask,
    size: tuple[int, int],
    picture: str = "",
    label: str | None = None,
) -> Mask:
    """The truth about a picture, from a file, "left,top,right,bottom", boxes, or a mask.

    >>> ground_truth_of("1,0,3,1", (1, 4)).tolist()
    [[False, True, True, False]]
    """
    if isinstance(source, np.ndarray):
        return np.asarray(source, dtype=bool)
    if not isinstance(source, str | Path):
        return boxed(source, size)
    try:
        box = parse_box(str(source))
    except TimmscopeError:
        return read_ground_truth(source, size, picture, label)
    return boxed([box], size)


def parse_box(text: str) -> Box:
    """A box from "left,top,right,bottom".

    Raises:
        TimmscopeError: it is none.

    >>> parse_box("1, 0, 3, 1.5")
    (1.0, 0.0, 3.0, 1.5)
    """
    try:
        left, top, right, bottom = (float(edge) for edge in text.split(","))
    except ValueError:
        raise TimmscopeError(
            f"{text[:80]!r} is no box; give left, top, right, bottom in pixels of the picture, "
            "such as 150, 0, 450, 400"
        ) from None
    return left, top, right, bottom


def boxed(boxes: Iterable[Box], size: tuple[int, int]) -> Mask:
    """The mask of pixels whose centres lie in any of the boxes.

    >>> boxed([(1, 0, 3, 1)], (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    canvas = _Canvas(size)
    for box in boxes:
        canvas.box(box)
    return canvas.mask


class _Canvas:
    """A mask to draw shapes on, as long as they keep within measure.

    Attributes:
        mask: (H, W) True where a shape was drawn.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.mask: Mask = np.zeros(size, dtype=bool)
        self._left, self._shapes = MOST_DRAWN * size[0] * size[1], MOST_SHAPES

    def box(self, box: Box) -> None:
        """Draw a box: the pixels whose centres lie in it; none where an edge is missing."""
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

    def polygon(self, points: Sequence[float]) -> None:
        """Draw a polygon (x, y, x, y, ...): the pixels whose centres lie in it, by even and odd."""
        height, width = self.mask.shape
        x, y = (np.asarray(points[axis::2], dtype=float) for axis in range(2))
        if len(x) != len(y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("a polygon's corners are no pairs of numbers")
        nx, ny = np.roll(x, -1), np.roll(y, -1)
        first, last = (
            np.clip(np.ceil(edge(y, ny) - 0.5), 0, height).astype(int)
            for edge in (np.minimum, np.maximum)
        )
        top, counts = int(first.min(initial=height)), last - first
        tall = max(0, int(last.max(initial=0)) - top)
        self._charge(int(counts.sum()) + len(x) + tall * width)
        edge = np.repeat(np.arange(len(x)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        along = (row + 0.5 - y[edge]) / (ny[edge] - y[edge])
        crossing = np.ceil(x[edge] + along * (nx[edge] - x[edge]) - 0.5)
        column = np.clip(crossing, 0, width).astype(int)
        turns = np.zeros((tall, width + 1), dtype=bool)
        np.logical_xor.at(turns, (row - top, column), True)
        self.mask[top : top + tall] |= np.logical_xor.accumulate(turns, axis=1)[:, :width]

    def mark(self, mask: Mask) -> None:
        """Draw a mask of the same size."""
        self._charge(mask.size)
        self.mask |= mask

    def _charge(self, pixels: int) -> None:
        self._shapes -= 1
        self._left -= pixels
        if self._shapes < 0 or self._left < 0:
            raise TimmscopeError(
                f"the annotation draws more than {MOST_SHAPES} shapes, or {MOST_DRAWN} times over "
                "the whole picture; give the objects in question only"
            )


def _after(edge: float) -> int:
    """The first pixel whose centre lies beyond an edge."""
    return math.floor(min(max(edge, -1.0), 1e9) + 0.5)


def _before(edge: float) -> int:
    """The number of pixels whose centres lie before an edge."""
    return math.ceil(min(max(edge, 0.0), 1e9) - 0.5)


def on_input(mask: Mask, geometry: Geometry) -> Tensor:
    """A mask over the picture, in the pixels of the model's input (H, W), as it lies there.

    What the model does not see is left out; what it sees beyond the picture's rim is no evidence.

    Raises:
        TimmscopeError: the mask is not as large as the picture, or nothing of it is seen.
    """
    if mask.shape != geometry.picture:
        raise TimmscopeError(
            f"a truth of {mask.shape[1]}x{mask.shape[0]} pixels does not fit a picture of "
            f"{geometry.picture[1]}x{geometry.picture[0]}; give one of the picture's size"
        )
    height, width = geometry.input
    xs = np.floor([geometry.to_picture(j + 0.5, 0)[0] for j in range(width)]).astype(int)
    ys = np.floor([geometry.to_picture(0, i + 0.5)[1] for i in range(height)]).astype(int)
    rows, columns = (ys >= 0) & (ys < mask.shape[0]), (xs >= 0) & (xs < mask.shape[1])
    seen = np.zeros((height, width), dtype=bool)
    seen[np.ix_(rows, columns)] = mask[np.ix_(ys[rows], xs[columns])]
    if not seen.any():
        raise TimmscopeError(
            "the truth marks no pixel that the model sees; give another, or a picture that shows it"
        )
    return torch.from_numpy(seen)


def read_ground_truth(
    path: str | Path, size: tuple[int, int], picture: str = "", label: str | None = None
) -> Mask:
    """The truth that a file tells about a picture.

    Args:
        path: a mask as PNG (evidence where it is neither 0 nor, in a palette, 255), a VOC
            annotation (.xml), or COCO annotations (.json).
        size: height and width of the picture.
        picture: its file name, by which COCO knows it; not needed if the file is about one picture.
        label: only objects of this class, in a mask its number; by default all.

    Raises:
        TimmscopeError: the file cannot be read, or says nothing about the picture or the class.
    """
    path = Path(path)
    if not path.is_file():
        raise TimmscopeError(f"there is no file {str(path)!r} to read the truth from")
    if path.suffix.lower() not in (".xml", ".json"):
        return _from_image(path, label)
    if path.stat().st_size > MAX_BYTES:
        raise TimmscopeError(
            f"{path.name!r} has {path.stat().st_size / 1e6:.0f} MB, more than "
            f"{MAX_BYTES / 1e6:.0f}; give the annotations of fewer pictures"
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if path.suffix.lower() == ".xml":
            return _from_voc(text, size, path.name, label)
        return _from_coco(json.loads(text), size, path.name, picture, label)
    except _UNREADABLE as error:
        if isinstance(error, TimmscopeError):
            raise
        raise TimmscopeError(
            f"{path.name!r} is no annotation that can be read ({error}); give VOC .xml, COCO .json "
            "or a mask as .png"
        ) from None


# -- masks ----------------------------------------------------------------------------------------


def _from_image(path: Path, label: str | None) -> Mask:
    open_picture(path)  # refuses what is no picture, or too large a one
    with PIL.Image.open(path) as image:
        if image.mode in ("P", "L", "I;16", "I"):
            void = VOID if image.mode == "P" else 0
            return _of_class(np.asarray(image), void, path.name, label)
        if label is not None:
            raise TimmscopeError(
                f"{path.name!r} is a mask that tells no classes apart, so not {label[:80]!r} "
                "either; leave the class out"
            )
        if "A" in image.getbands():
            return np.asarray(image.getchannel("A")) > 0
        return np.asarray(np.asarray(image.convert("RGB")).any(2), dtype=bool)


def _of_class(values: NDArray[Any], void: int, name: str, label: str | None) -> Mask:
    """Where a mask of class numbers marks a class, or any."""
    marked = np.asarray((values != 0) & (values != void))
    if label is None:
        return marked
    labels = [str(number) for number in np.unique(values[marked])]
    _expect(name, label, labels)
    return np.asarray(marked & (values == int(label)))


# -- VOC --------------------------------------------------------------------------------------


def _from_voc(text: str, size: tuple[int, int], name: str, label: str | None) -> Mask:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TimmscopeError(f"{name!r} declares entities, which annotations have no need of")
    objects = ElementTree.fromstring(text).findall("object")
    named = [(found.findtext("name", ""), found.find("bndbox")) for found in objects]
    _expect(name, label, [n for n, _ in named])
    boxes: list[Box] = []
    for found, box in named:
        if box is None or label not in (None, found):
            continue
        left, top, right, bottom = (
            float(box.findtext(edge, "nan")) for edge in ("xmin", "ymin", "xmax", "ymax")
        )
        boxes.append((left - 1, top - 1, right, bottom))  # VOC counts pixels from 1, the last too
    return boxed(boxes, size)


def _expect(name: str, label: str | None, labels: Sequence[str]) -> None:
    if not labels:
        raise TimmscopeError(f"{name!r} names no object in this picture")
    if label is not None and label not in labels:
        raise unknown("object", label, sorted(set(labels)))


# -- COCO -----------------------------------------------------------------------------------------


def _from_coco(
    data: Mapping[str, Any], size: tuple[int, int], name: str, picture: str, label: str | None
) -> Mask:
    images = data["images"]
    chosen = [image for image in images if Path(image["file_name"]).name == Path(picture).name]
    if not chosen and len(images) == 1:
        chosen = images
    if not chosen:
        raise TimmscopeError(
            f"{name!r} has {len(images)} pictures and {Path(picture).name!r} is none of them"
        )
    labels = {category["id"]: category["name"] for category in data.get("categories", ())}
    found = [a for a in data["annotations"] if a["image_id"] == chosen[0]["id"]]
    _expect(name, label, [labels.get(a["category_id"], "") for a in found])
    canvas = _Canvas(size)
    for annotation in found:
        if label in (None, labels.get(annotation["category_id"])):
            _draw(annotation, canvas)
    return canvas.mask


def _draw(annotation: Mapping[str, Any], canvas: _Canvas) -> None:
    shape = annotation.get("segmentation")
    if isinstance(shape, Mapping):
        canvas.mark(_run_lengths(shape, (canvas.mask.shape[0], canvas.mask.shape[1])))
    elif shape:
        for points in shape:
            canvas.polygon(points)
    else:
        left, top, width, height = (float(v) for v in annotation["bbox"])
        canvas.box((left, top, left + width, top + height))


def _run_lengths(shape: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """A mask from the lengths of its runs, column by column, off and on in turn."""
    if tuple(shape["size"]) != size:
        raise TimmscopeError(
            f"a mask of {shape['size'][1]}x{shape['size'][0]} pixels does not fit a picture of "
            f"{size[1]}x{size[0]}"
        )
    counts = shape["counts"]
    lengths = _decoded(counts) if isinstance(counts, str) else [int(n) for n in counts]
    if min(lengths, default=-1) < 0 or sum(lengths) != size[0] * size[1]:
        raise TimmscopeError("the run lengths of a mask do not add up to its size")
    on = np.arange(len(lengths)) % 2 == 1
    return np.repeat(on, lengths).reshape(size[1], size[0]).T


def _decoded(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a character, each from the third on a difference.

    >>> _decoded("52203")
    [5, 2, 2, 2, 5]
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > LONGEST_RUN:
                raise ValueError("a run length is longer than any picture")
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths

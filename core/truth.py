"""Where the evidence is, as people write it down: boxes, masks, VOC and COCO annotations.

A truth is a mask over the picture, True on the evidence. Files are untrusted like any other.
"""

from __future__ import annotations

import json
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
from core.image import open_picture
from core.preprocessing import Geometry

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels of the picture."""

MAX_BYTES = 64 * 2**20
"""The largest annotation file that is read."""
VOID = 255
"""In a VOC mask, pixels that belong to nothing for certain."""


def truth_of(
    source: str | Path | Sequence[Box] | Mask,
    size: tuple[int, int],
    picture: str = "",
    label: str | None = None,
) -> Mask:
    """The truth about a picture, from a file, "left,top,right,bottom", boxes, or a mask.

    >>> truth_of("1,0,3,1", (1, 4)).tolist()
    [[False, True, True, False]]
    """
    if isinstance(source, np.ndarray):
        return np.asarray(source, dtype=bool)
    if not isinstance(source, str | Path):
        return boxed(source, size)
    try:
        box = parse_box(str(source))
    except TimmscopeError:
        return read_truth(source, size, picture, label)
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
    mask = np.zeros(size, dtype=bool)
    down, right = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    for x0, y0, x1, y1 in boxes:
        rows, columns = (down > y0) & (down < y1), (right > x0) & (right < x1)
        mask |= rows[:, None] & columns[None]
    return mask


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


def read_truth(
    path: str | Path, size: tuple[int, int], picture: str = "", label: str | None = None
) -> Mask:
    """The truth that a file tells about a picture.

    Args:
        path: a mask as PNG (evidence where it is neither 0 nor, in a palette, 255), a VOC
            annotation (.xml), or COCO annotations (.json).
        size: height and width of the picture.
        picture: its file name, by which COCO knows it; not needed if the file is about one picture.
        label: only objects of this class; by default all.

    Raises:
        TimmscopeError: the file cannot be read, or says nothing about the picture or the class.
    """
    path = Path(path)
    if not path.is_file():
        raise TimmscopeError(f"there is no file {str(path)!r} to read the truth from")
    if path.suffix.lower() not in (".xml", ".json"):
        return _from_image(path)
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
    except (ElementTree.ParseError, ValueError, TypeError, KeyError, IndexError) as error:
        if isinstance(error, TimmscopeError):
            raise
        raise TimmscopeError(
            f"{path.name!r} is no annotation that can be read ({error}); give VOC .xml, COCO .json "
            "or a mask as .png"
        ) from None


# -- masks ----------------------------------------------------------------------------------------


def _from_image(path: Path) -> Mask:
    open_picture(path)  # refuses what is no picture, or too large a one
    with PIL.Image.open(path) as image:
        if image.mode in ("P", "1", "L", "I;16", "I"):
            values = np.asarray(image)
            return np.asarray((values != 0) & ~((image.mode == "P") & (values == VOID)))
        if "A" in image.getbands():
            return np.asarray(image.getchannel("A")) > 0
        return np.asarray(np.asarray(image.convert("RGB")).any(2), dtype=bool)


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
    mask = np.zeros(size, dtype=bool)
    for annotation in found:
        if label in (None, labels.get(annotation["category_id"])):
            mask |= _segment(annotation, size)
    return mask


def _segment(annotation: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    shape = annotation.get("segmentation")
    if isinstance(shape, Mapping):
        return _run_lengths(shape, size)
    if shape:
        return _polygons(shape, size)
    left, top, width, height = (float(v) for v in annotation["bbox"])
    return boxed([(left, top, left + width, top + height)], size)


def _polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Mask:
    """The pixels whose centres lie in any of the polygons (x, y, x, y, ...)."""
    # Imported where needed: it takes long, and few ask for it.
    from skimage import draw

    polygon: Any = draw.polygon
    mask = np.zeros(size, dtype=bool)
    for points in polygons:
        xs, ys = (np.asarray(points[axis::2], dtype=float) - 0.5 for axis in range(2))
        mask[polygon(ys, xs, size)] = True
    return mask


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
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths

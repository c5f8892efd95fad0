"""Reads where the evidence is: boxes, masks, VOC and COCO annotations.

The ground truth is a mask over the picture, True on the evidence. Annotation files are untrusted.
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
from core.inputs.image import open_picture
from core.inputs.mask_canvas import Box as Box
from core.inputs.mask_canvas import Mask, MaskCanvas
from core.inputs.preprocessing import Geometry

MAX_BYTES = 64 * 2**20
"""The largest annotation file that is read."""
VOID = 255
"""In a VOC mask, pixels that are not assigned to any object."""


_UNREADABLE = (
    ElementTree.ParseError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
"""Exceptions raised by malformed annotations."""


def ground_truth_of(
    source: str | Path | Sequence[Box] | Mask,
    size: tuple[int, int],
    picture: str = "",
    label: str | None = None,
) -> Mask:
    """The ground truth of a picture, from whatever states it.

    Args:
        source: a file (see `read_ground_truth`), a box as "left,top,right,bottom", a list of boxes,
            or a mask (H, W); in pixels of the picture.
        size: height and width of the picture.
        picture: the picture's file name, by which a COCO file knows it.
        label: of a file, only the objects of this class.

    Raises:
        TimmscopeError: it cannot be read.

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
        TimmscopeError: the text is not four numbers.

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
    """The mask (H, W) of the pixels whose centres lie in any of the boxes.

    Raises:
        TimmscopeError: there are too many boxes, or they are too large altogether.

    >>> boxed([(1, 0, 3, 1)], (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    canvas = MaskCanvas(size)
    for box in boxes:
        canvas.box(box)
    return canvas.mask


def on_input(mask: Mask, geometry: Geometry) -> Tensor:
    """A mask over the picture as a mask over the model's input.

    Each input pixel takes the value of the picture's pixel at its centre. What preprocessing crops
    away is lost, and padding is no evidence.

    Args:
        mask: (H, W) over the picture.
        geometry: which part of the picture the input shows.

    Returns:
        A boolean tensor (H, W), the size of the input.

    Raises:
        TimmscopeError: the mask has another size than the picture, or the input shows nothing of
            it.
    """
    if mask.shape != geometry.picture:
        raise TimmscopeError(
            f"a mask of {mask.shape[1]}x{mask.shape[0]} pixels does not fit a picture of "
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
            "nothing that the model sees is marked; mark a part inside its crop, or let it see the "
            "whole picture"
        )
    return torch.from_numpy(seen)


def read_ground_truth(
    path: str | Path, size: tuple[int, int], picture: str = "", label: str | None = None
) -> Mask:
    """The ground truth (H, W) of a picture from a file.

    Args:
        path: a mask as an image (evidence where it is not 0, nor 255 in an image with a palette), a
            VOC annotation (.xml), or COCO annotations (.json).
        size: height and width of the picture.
        picture: the picture's file name, by which COCO knows it; not needed if the file is about
            one picture only.
        label: only objects of this class, which a mask knows by its number; by default all objects.

    Raises:
        TimmscopeError: the file cannot be read, or has no object of this picture or class.
    """
    path = Path(path)
    if not path.is_file():
        raise TimmscopeError(f"there is no file {str(path)!r} to read the ground truth from")
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
                f"{path.name!r} is a mask without class numbers, so it has no {label[:80]!r}; "
                "leave the class out"
            )
        if "A" in image.getbands():
            return np.asarray(image.getchannel("A")) > 0
        return np.asarray(np.asarray(image.convert("RGB")).any(2), dtype=bool)


def _of_class(values: NDArray[Any], void: int, name: str, label: str | None) -> Mask:
    """(H, W) True on a class, or on any, in a mask of class numbers (H, W)."""
    marked = np.asarray((values != 0) & (values != void))
    if label is None:
        return marked
    labels = [str(number) for number in np.unique(values[marked])]
    _expect(name, label, labels)
    return np.asarray(marked & (values == int(label)))


# -- VOC --------------------------------------------------------------------------------------


def _from_voc(text: str, size: tuple[int, int], name: str, label: str | None) -> Mask:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TimmscopeError(f"{name!r} declares XML entities, which annotations do not need")
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
    canvas = MaskCanvas(size)
    for annotation in found:
        if label in (None, labels.get(annotation["category_id"])):
            _draw(annotation, canvas)
    return canvas.mask


def _draw(annotation: Mapping[str, Any], canvas: MaskCanvas) -> None:
    shape = annotation.get("segmentation")
    if isinstance(shape, Mapping):
        canvas.run_lengths(shape["size"], shape["counts"])
    elif shape:
        for points in shape:
            canvas.polygon(points)
    else:
        left, top, width, height = (float(v) for v in annotation["bbox"])
        canvas.box((left, top, left + width, top + height))

"""Region: which part of a picture a question is about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError, RegionError, TimmscopeError
from core.inputs.ground_truth import Box, ground_truth_of, on_input
from core.inputs.preprocessing import Geometry
from core.tasks.base import Explained

PREDICTED = "predicted"
"""The region that the model predicts as the class."""
WHOLE = "whole"
"""All of the picture that the model sees."""
RegionLike = Any
"""A part of a picture: "predicted", "whole"; a pixel (x, y) or a box (left, top, right, bottom), as
numbers or as text such as "120,80", or a list of boxes; a boolean array (H, W) or a file with a
mask or annotation; all in pixels of the picture. Or a boolean tensor (H, W), or (B, H, W) with one
for each picture, in pixels of the model's input."""
WAYS = (
    "give 'predicted', 'whole', a pixel such as 120,80, a box such as 10,20,90,60 in pixels of the "
    "picture, or a mask"
)


@dataclass(frozen=True, eq=False)
class InRegion:
    """A class in a part of the picture, as a target for a segmenter.

    Attributes:
        target: a class number or label, "A-B", "A+B" or "not A"; None for the class with the
            highest mean score there.
        region: see `RegionLike`. Where several classes are named, "predicted" is the region that is
            predicted as the first of them.

    >>> InRegion("road-sky", "whole").region
    'whole'
    """

    target: object = None
    region: RegionLike = PREDICTED


@dataclass(frozen=True, eq=False)
class Region:
    """A part of each picture, found once.

    Attributes:
        masks: (B, H, W) True in the region, over the model's input; or (1, H, W) for all pictures.
        text: where it is, in words that follow a class: "in the box 10,20,90,60".
    """

    masks: Tensor
    text: str

    @cached_property
    def key(self) -> str:
        """Identifies the pixels."""
        digest = blake2b(str(tuple(self.masks.shape)).encode(), digest_size=8)
        digest.update(np.packbits(self.masks.cpu().numpy()).tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def of(self, image: int) -> Region:
        """The region of one image."""
        return self if len(self.masks) == 1 else Region(self.masks[image : image + 1], self.text)

    def mean(self, maps: Tensor, size: tuple[int, int], owner: Tensor) -> Tensor:
        """(n,) the mean of each map over the region.

        Args:
            maps: (n, h, w), on a grid over the model's input; interpolated between its cells.
            size: height and width of the model's input.
            owner: (n,) the image that each map belongs to.

        Raises:
            NotApplicableError: the region is one of inputs of another size.
        """
        if tuple(self.masks.shape[1:]) != tuple(size):
            raise NotApplicableError(
                f"a region of pictures of {self.masks.shape[2]}x{self.masks.shape[1]} pixels says "
                f"nothing of pictures of {size[1]}x{size[0]}; choose a method or metric that keeps "
                "the size of the picture"
            )
        dtype = torch.promote_types(maps.dtype, torch.float32)
        weights = cell_weights(self.masks, (maps.shape[1], maps.shape[2])).to(maps.device, dtype)
        if len(weights) > 1:
            weights = weights[owner.to(maps.device)]
        return (maps.to(dtype) * weights).sum((1, 2))


def cell_weights(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """What each cell of a grid counts in the mean over a region.

    The mean of interpolated values over the pixels of a region is a weighted mean of the values in
    the cells; these are the weights.

    Args:
        masks: (B, H, W) True in the region.
        grid: height and width of the grid, in cells.

    Returns:
        (B, h, w) weights that add up to 1 for each image.

    >>> cell_weights(torch.tensor([[[True, True, False, False]]]), (1, 2))
    tensor([[[0.8750, 0.1250]]])
    """
    shares = masks.float() / masks.sum((1, 2), keepdim=True)
    if tuple(grid) == tuple(masks.shape[1:]):
        return shares
    down, across = (
        _interpolation(cells, pixels).to(shares)
        for cells, pixels in zip(grid, masks.shape[1:], strict=True)
    )
    return down @ shares @ across.T


def _interpolation(cells: int, pixels: int) -> Tensor:
    """(cells, pixels) how much of each cell's value is in each pixel, along one side."""
    one_cell_each = torch.eye(cells)[None]
    return F.interpolate(one_cell_each, size=pixels, mode="linear", align_corners=False)[0]


def find_region(source: RegionLike, explained: Explained) -> Region:
    """A region that does not depend on what the model predicts.

    Args:
        source: see `RegionLike`; anything but "predicted".
        explained: the pictures.

    Raises:
        RegionError: it cannot be read, lies outside of a picture, or is empty.
    """
    size = (explained.batch.x.shape[2], explained.batch.x.shape[3])
    if isinstance(source, Tensor):
        return Region(_from_tensor(source, explained, size), "in the given region")
    if isinstance(source, str) and source.strip() == WHOLE:
        return Region(torch.ones(1, *size, dtype=torch.bool), "in the whole picture")
    numbers = _numbers(source)
    if len(numbers) == 2:
        found = [_pixel(numbers, one, explained.named(i)) for i, one in _geometries(explained)]
        return Region(torch.stack(found), f"at the pixel {_joined(numbers)}")
    text = f"in the box {_joined(numbers)}" if numbers else "in the given region"
    given = [_box(numbers, text)] if numbers else source
    masks = []
    for image, geometry in _geometries(explained):
        pictures = explained.batch.pictures
        masks.append(_mask(given, geometry, pictures[image].name if pictures else ""))
    return Region(torch.stack(masks), text)


def _geometries(explained: Explained) -> Iterator[tuple[int, Geometry]]:
    """Number and geometry of each picture asked about; tensors are pictures of the input's size."""
    batch = explained.batch
    height, width = batch.x.shape[2:]
    itself = Geometry((height, width), (height, width), (0.0, 0.0, float(width), float(height)))
    for image in explained.images:
        yield image, batch.geometries[image] if batch.geometries else itself


def _mask(source: Any, geometry: Geometry, name: str) -> Tensor:
    """(H, W) True in a region, over the model's input."""
    file = isinstance(source, (str, Path))
    boxes = isinstance(source, Sequence) and all(isinstance(one, Sequence) for one in source)
    if not (Path(source).is_file() if file else boxes or isinstance(source, np.ndarray)):
        raise RegionError(f"{str(source)[:80]!r} is no region; {WAYS}")
    try:
        return on_input(ground_truth_of(source, geometry.picture, name), geometry)
    except TimmscopeError as error:
        raise RegionError(str(error)) from error


def _numbers(source: RegionLike) -> tuple[float, ...]:
    """The numbers of a pixel or a box; none if it is something else."""
    if isinstance(source, (Path, np.ndarray)):
        return ()
    parts = source.split(",") if isinstance(source, str) else source
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return ()
    if len(numbers) not in (2, 4) or not all(map(math.isfinite, numbers)):
        raise RegionError(f"{str(source)[:80]!r} is neither a pixel nor a box; {WAYS}")
    return numbers


def _joined(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:.15g}" for number in numbers)


def _box(numbers: Sequence[float], text: str) -> Box:
    left, top, right, bottom = numbers
    if right <= left or bottom <= top:
        raise RegionError(
            f"nothing lies {text}; give left, top, right and bottom in this order, in pixels of "
            "the picture"
        )
    return left, top, right, bottom


def _pixel(at: Sequence[float], geometry: Geometry, picture: str) -> Tensor:
    """(H, W) True at the pixel of the model's input that shows a pixel of the picture."""
    column, row = (math.floor(number) for number in at)
    height, width = geometry.picture
    if not (0 <= column < width and 0 <= row < height):
        raise RegionError(
            f"the pixel {_joined(at)} lies outside of {picture}, which is {width} x {height} "
            f"pixels; give x from 0 to {width - 1} and y from 0 to {height - 1}"
        )
    x, y = geometry.to_input(column + 0.5, row + 0.5)
    mask = torch.zeros(geometry.input, dtype=torch.bool)
    if not (0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]):
        raise RegionError(
            f"the pixel {_joined(at)} of {picture} lies outside of the part that the model sees; "
            "give one inside of it, or let the model see the whole picture with crop='whole'"
        )
    mask[math.floor(y), math.floor(x)] = True
    return mask


def _from_tensor(given: Tensor, explained: Explained, size: tuple[int, int]) -> Tensor:
    """(B, H, W) a mask over the model's input, for the images that are asked about."""
    masks = given.detach().cpu().bool()
    masks = masks[None] if masks.ndim == 2 else masks
    pictures = len(explained.batch.x)
    if masks.ndim != 3 or tuple(masks.shape[1:]) != size or len(masks) not in (1, pictures):
        raise RegionError(
            f"a region of shape {tuple(given.shape)} does not fit {pictures} input(s) of "
            f"{size[0]} x {size[1]}; give a tensor {size}, or ({pictures}, {size[0]}, {size[1]})"
        )
    if len(masks) > 1:
        masks = masks[list(explained.images)]
    if not masks.flatten(1).any(1).all():
        raise RegionError("the region is empty; mark at least one pixel of it")
    return masks

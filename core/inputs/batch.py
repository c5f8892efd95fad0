"""InputBatch: pictures as a model sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from core.errors import TimmscopeError
from core.inputs.crop import Crop, Crops, crop_text, read_crops
from core.inputs.image import Bytes, Picture, Source, open_picture
from core.inputs.preprocessing import Geometry, Preprocessing
from core.result import Result
from core.types import Attribution, upsample

PictureLike = Source
"""One picture: a file, its bytes, an open file, a PIL image, an array, a tensor of integers, or a
decoded `Picture`."""
OnProgress = Callable[[int, int], None]
"""``callback(done, expected)`` in rows; raise `CancelledError` in it to stop."""
OnPartial = Callable[[Attribution], object]
"""``callback(attribution)`` with a partial map; return True from it to stop and keep the map."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InputBatch(Result):
    """Pictures as a model sees them.

    Attributes:
        x: (B, C, H, W) in model units, on the model's device.
        digest: identifies the pixels that the model sees.
        preprocessing: how `x` was made; for a model with another preprocessing the pictures are
            prepared anew.
        pictures: the pictures; empty when tensors in model units were given. Of several files, the
            pixels are read again when they are needed.
        geometries: where each picture lies on the model's input; empty when tensors were given.
        crops: the part of each picture that was asked for; None for the model's own crop.
    """

    x: Tensor
    digest: str
    preprocessing: Preprocessing
    pictures: tuple[Picture, ...] = field(default=(), compare=False)  # the digest stands for them
    geometries: tuple[Geometry, ...] = ()
    crops: tuple[Crop, ...] = ()

    def to(self, device: torch.device, dtype: torch.dtype) -> InputBatch:
        """The same batch on another device; itself if it is there."""
        if self.x.device == device:
            return self
        return replace(self, x=self.x.to(device, dtype))


Pictures = PictureLike | InputBatch | Iterable[PictureLike]
"""One or several pictures; several also as an array or a tensor of integers with 4 axes. A tensor
of floats (C, H, W) or (B, C, H, W), or a list of them, is in model units."""


def prepare(
    pictures: Pictures,
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype,
    model: str = "the model",
    crop: Crops = None,
) -> InputBatch:
    """Decode and preprocess one or several pictures, one after another.

    Args:
        pictures: see `Pictures`.
        preprocessing: of the model.
        device: where the batch goes.
        dtype: of the model's weights.
        model: what the model is called in messages.
        crop: the part that the model is to see in place of its own crop, see
            `core.inputs.crop.read_crop`: one for all pictures, or one for each. By default that
            of a batch that was prepared before.

    Raises:
        PictureError: a picture cannot be read, or has no such part.
        TimmscopeError: no picture is given, a tensor has another shape than the model's input or
            other values than model units, a batch of tensors was made for another model, or the
            crop cannot be read or is one of tensors.
    """
    if isinstance(pictures, InputBatch):
        if crop is None and pictures.preprocessing == preprocessing:
            return pictures.to(device, dtype)
        if not pictures.pictures:
            _refuse_crop(crop)
            raise TimmscopeError(
                f"this batch was prepared for another model than {model}; prepare it again"
            )
        crop = (pictures.crops or None) if crop is None else crop
        pictures = pictures.pictures
    if isinstance(pictures, Tensor) and pictures.is_floating_point():
        _refuse_crop(crop)
        return _from_tensor(pictures, preprocessing, device, dtype, model)
    several = list(_several(pictures))
    if several and all(isinstance(one, Tensor) and one.is_floating_point() for one in several):
        _refuse_crop(crop)
        return _from_tensor(
            _stacked(several, preprocessing, model), preprocessing, device, dtype, model
        )
    if not several:
        raise TimmscopeError("no picture given; give at least one")
    batch = _from_pictures(several, read_crops(crop, len(several)), preprocessing)
    return replace(batch, x=batch.x.to(device, dtype))


def _from_pictures(
    several: Sequence[PictureLike], crops: tuple[Crop, ...], preprocessing: Preprocessing
) -> InputBatch:
    opened, inputs, geometries = [], [], []
    for source, crop in zip(several, crops, strict=True):
        picture = open_picture(
            source,
            channels=preprocessing.input_size[0],
            value_range=preprocessing.value_range,
        )
        x, geometry = preprocessing(picture, crop)
        inputs.append(x)
        geometries.append(geometry)
        opened.append(picture.released() if len(several) > 1 else picture)
        del source, picture
    shown = zip(opened, map(crop_text, crops), strict=True)
    digest = " ".join(f"{one.digest}@{text}" if text else one.digest for one, text in shown)
    x = torch.stack(inputs)
    return InputBatch(x, digest, preprocessing, tuple(opened), tuple(geometries), crops)


def _refuse_crop(crop: Crops) -> None:
    """Refuses a part of what is a tensor in model units."""
    if crop is not None:
        raise TimmscopeError(
            f"crop {crop!r:.80} is a part of a picture, and a tensor in model units is none; cut "
            "the tensor, or give the picture itself"
        )


def _several(pictures: PictureLike | Iterable[PictureLike]) -> Iterable[PictureLike]:
    """The pictures one by one."""
    if isinstance(pictures, np.ndarray | Tensor):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    many = isinstance(pictures, Sequence | Iterator) and not isinstance(pictures, str | Bytes)
    if many and not hasattr(pictures, "read"):
        return pictures  # type: ignore[return-value]
    return [pictures]  # type: ignore[list-item]


def _stacked(several: Sequence[object], preprocessing: Preprocessing, model: str) -> Tensor:
    """Tensors in model units as one batch."""
    size = preprocessing.input_size
    rows = [one[None] if one.ndim == 3 else one for one in several if isinstance(one, Tensor)]
    for row in rows:
        if row.shape[1:] != size:
            raise _wrong_shape(tuple(row.shape), preprocessing, model)
    return torch.cat(rows)


def _from_tensor(
    x: Tensor, preprocessing: Preprocessing, device: torch.device, dtype: torch.dtype, model: str
) -> InputBatch:
    given, x = tuple(x.shape), x[None] if x.ndim == 3 else x
    if x.shape[1:] != preprocessing.input_size or not len(x):
        raise _wrong_shape(given, preprocessing, model)
    _check_units(x, preprocessing, model)
    x = x.detach().clone().to(device, dtype)
    return InputBatch(x, digest_of(x), preprocessing)


def _wrong_shape(
    given: tuple[int, ...], preprocessing: Preprocessing, model: str
) -> TimmscopeError:
    size = ", ".join(map(str, preprocessing.input_size))
    return TimmscopeError(
        f"a tensor of shape {given} is not a batch of images for {model}; give (B, {size}) in "
        "model units, or a picture as uint8 or as an array"
    )


def _check_units(x: Tensor, preprocessing: Preprocessing, model: str) -> None:
    """Refuses values that cannot be model units: NaN, infinity, or those of a picture's pixels."""
    low, high = (float(end) for end in x.detach().aminmax())
    if not np.isfinite([low, high]).all():
        raise TimmscopeError(
            "the tensor holds NaN or infinite values; replace them first, such as with "
            "torch.nan_to_num"
        )
    black, white = preprocessing.pixel(0.0), preprocessing.pixel(1.0)
    lowest, highest = float(black.min()), float(white.max())
    if low >= 0 and 8 * max(-lowest, highest) < high <= 65536:
        raise TimmscopeError(
            f"the tensor has values from {low:g} to {high:g}, and model units of {model} go from "
            f"{lowest:.3g} to {highest:.3g}; give pixels as uint8, or preprocess the tensor"
        )


def digest_of(tensor: Tensor) -> str:
    """Identifies a tensor by its shape, type and values."""
    digest = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=16)
    digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_input_size(values: Tensor, x: Tensor) -> Tensor:
    """Maps (B, h, w) in the pixels of the images `x` (B, C, H, W), on the CPU."""
    return upsample(values.detach().float().cpu(), (x.shape[2], x.shape[3]))

"""InputBatch: pictures as a model sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from core.errors import TimmscopeError
from core.inputs.image import Picture, open_picture
from core.inputs.preprocessing import Geometry, Preprocessing
from core.result import Result
from core.types import upsample

PictureLike = str | Path | bytes | PIL.Image.Image | np.ndarray | Picture
"""One picture: a file, its bytes, a PIL image, an array, or a decoded `Picture`."""
OnProgress = Callable[[int, int], None]
"""``callback(done, expected)`` in rows; raise `CancelledError` in it to stop."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InputBatch(Result):
    """Pictures as a model sees them.

    Attributes:
        x: (B, C, H, W) in model units, on the model's device.
        digest: identifies the pixels.
        preprocessing: how `x` was made; for a model with another preprocessing the pictures are
            prepared anew.
        pictures: the decoded pictures; empty when tensors were given.
        geometries: where each picture lies on the model's input; empty when tensors were given.
    """

    x: Tensor
    digest: str
    preprocessing: Preprocessing
    pictures: tuple[Picture, ...] = field(default=(), compare=False)  # the digest stands for them
    geometries: tuple[Geometry, ...] = ()

    def to(self, device: torch.device, dtype: torch.dtype) -> InputBatch:
        """The same batch on another device; itself if it is there."""
        if self.x.device == device:
            return self
        return replace(self, x=self.x.to(device, dtype))


Pictures = PictureLike | Tensor | InputBatch | Sequence[PictureLike]
"""One or several pictures; or a tensor (C, H, W) or (B, C, H, W) in model units."""


def prepare(
    pictures: Pictures,
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype,
    model: str = "the model",
) -> InputBatch:
    """Decode and preprocess one or several pictures.

    Args:
        pictures: see `Pictures`.
        preprocessing: of the model.
        device: where the batch goes.
        dtype: of the model's weights.
        model: what the model is called in messages.

    Raises:
        PictureError: a picture cannot be read.
        TimmscopeError: no picture is given, a tensor has another shape than the model's input, or a
            batch of tensors was made for another model.
    """
    if isinstance(pictures, InputBatch):
        if pictures.preprocessing == preprocessing:
            return pictures.to(device, dtype)
        if not pictures.pictures:
            raise TimmscopeError(
                f"this batch was prepared for another model than {model}; prepare it again"
            )
        pictures = pictures.pictures
    if isinstance(pictures, Tensor):
        return _from_tensor(pictures, preprocessing, device, dtype, model)
    several = (
        list(pictures)
        if isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes)
        else [pictures]
    )
    opened = tuple(open_picture(picture) for picture in several)
    if not opened:
        raise TimmscopeError("no picture given; give at least one")
    pairs = [preprocessing(picture.image) for picture in opened]
    x = torch.stack([pixels for pixels, _ in pairs]).to(device, dtype)
    digest = " ".join(picture.digest for picture in opened)
    return InputBatch(x, digest, preprocessing, opened, tuple(geometry for _, geometry in pairs))


def _from_tensor(
    x: Tensor, preprocessing: Preprocessing, device: torch.device, dtype: torch.dtype, model: str
) -> InputBatch:
    size = preprocessing.input_size
    given, x = tuple(x.shape), x[None] if x.ndim == 3 else x
    if x.shape[1:] != size or not len(x):
        raise TimmscopeError(
            f"a tensor of shape {given} is not a batch of images for {model}; "
            f"give (B, {', '.join(map(str, size))})"
        )
    x = x.detach().clone().to(device, dtype)
    return InputBatch(x, digest_of(x), preprocessing)


def digest_of(tensor: Tensor) -> str:
    """Identifies a tensor by its shape, type and values."""
    digest = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=16)
    digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_input_size(values: Tensor, x: Tensor) -> Tensor:
    """Maps (B, h, w) in the pixels of the images `x` (B, C, H, W), on the CPU."""
    return upsample(values.detach().float().cpu(), (x.shape[2], x.shape[3]))

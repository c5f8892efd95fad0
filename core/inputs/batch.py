"""What is asked, and about what: pictures as a model sees them, and how progress is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from torch import Tensor

from core.inputs.image import Picture
from core.inputs.preprocessing import Geometry, Preprocessing
from core.types import upsample

PictureLike = str | Path | bytes | PIL.Image.Image | np.ndarray | Picture
OnProgress = Callable[[int, int], None]
"""``callback(done, expected)`` in rows; raise `CancelledError` in it to stop."""


@dataclass(frozen=True, slots=True)
class InputBatch:
    """Pictures as a model sees them.

    Attributes:
        x: (B, C, H, W) in model units, on the model's device.
        digest: identifies the pixels.
        preprocessing: how they came to be; another model's look is taken anew.
        pictures: the pictures; empty when tensors were given.
        geometries: where each lies on the model's input; empty when tensors were given.
    """

    x: Tensor
    digest: str
    preprocessing: Preprocessing
    pictures: tuple[Picture, ...] = ()
    geometries: tuple[Geometry, ...] = ()


def to_input_size(values: Tensor, x: Tensor) -> Tensor:
    """Maps (B, h, w) in the pixels of the images `x` (B, C, H, W), on the CPU."""
    return upsample(values.detach().float().cpu(), (x.shape[2], x.shape[3]))

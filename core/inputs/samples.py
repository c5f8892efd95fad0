"""Sample pictures: photographs and synthetic scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import unknown
from core.inputs.assets import asset
from core.inputs.image import open_picture
from core.inputs.preprocessing import Preprocessing


def sample_picture(name: str) -> Path:
    """The path of a sample picture by its name: "coffee", "chelsea", "striped_disc".

    Raises:
        UnknownNameError: there is no such picture.

    >>> sample_picture("coffee").name
    'coffee.jpg'
    """
    files = sample_names()
    if name not in files:
        raise unknown("sample picture", name, files)
    return files[name]


def sample_names() -> dict[str, Path]:
    """The path of every sample picture, by its name."""
    return {path.stem: path for path in (*_photographs(), *_scenes())}


def sample_files() -> list[Path]:
    """Paths of the samples that show one object each, photographs first."""
    return [
        *(path for path in _photographs() if "_" not in path.stem),
        *(path for path in _scenes() if "_and_" not in path.stem),
    ]


def sample_inputs(preprocessing: Preprocessing) -> Tensor:
    """The samples of `sample_files` as model inputs (n, C, H, W), in model units.

    For a model of other than 1 or 3 channels, each channel is the luminance.
    """
    channels = preprocessing.input_size[0]
    pictures = (open_picture(path).image for path in sample_files())
    if channels in (1, 3):
        return torch.stack([preprocessing(picture)[0] for picture in pictures])
    grey = (np.asarray(picture.convert("L"))[..., None] for picture in pictures)
    return torch.stack([preprocessing(one.repeat(channels, axis=2))[0] for one in grey])


def _photographs() -> list[Path]:
    return sorted(asset("samples").glob("*.jpg"))


def _scenes() -> list[Path]:
    return sorted(asset("synthetic").glob("*.png"))

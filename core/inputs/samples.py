"""Sample pictures: photographs and synthetic scenes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from core.inputs.image import open_picture
from core.inputs.preprocessing import Preprocessing

ASSETS = Path(__file__).parents[2] / "assets"


def sample_files() -> list[Path]:
    """Paths of the samples that show one object each, photographs first."""
    photographs = (ASSETS / "samples").glob("*.jpg")
    objects = (ASSETS / "synthetic").glob("*.png")
    return [
        *sorted(p for p in photographs if "_" not in p.stem),
        *sorted(p for p in objects if "_and_" not in p.stem),
    ]


def sample_inputs(preprocessing: Preprocessing) -> Tensor:
    """The samples of `sample_files` as model inputs (n, C, H, W), in model units."""
    return torch.stack([preprocessing(open_picture(path).image)[0] for path in sample_files()])

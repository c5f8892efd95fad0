"""Pictures that come along: photographs, and objects of the generated world."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from core.inputs.image import open_picture
from core.inputs.preprocessing import Preprocessing

ASSETS = Path(__file__).parents[2] / "assets"


def sample_files() -> list[Path]:
    """The pictures of one subject each, photographs first."""
    photographs = (ASSETS / "samples").glob("*.jpg")
    objects = (ASSETS / "synthetic").glob("*.png")
    return [
        *sorted(p for p in photographs if "_" not in p.stem),
        *sorted(p for p in objects if "_and_" not in p.stem),
    ]


def sample_inputs(preprocessing: Preprocessing) -> Tensor:
    """These pictures (n, C, H, W) as a model sees them."""
    return torch.stack([preprocessing(open_picture(path).image)[0] for path in sample_files()])

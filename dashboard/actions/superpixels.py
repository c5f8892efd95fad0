"""The picture cut into parts that look alike, for a person to mark."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.inputs.batch import OnProgress
from core.perturb.superpixels import superpixels
from dashboard.actions.question import Question, resolve
from dashboard.state import Service

SIDE = 256
"""Cells on the longer side of the picture."""
COUNT = 60
"""How many parts there are, about."""


@dataclass(frozen=True)
class SuperpixelResult:
    """Which part each cell of a grid over the whole picture belongs to.

    Attributes:
        width: cells in a row.
        height: cells in a column.
        labels: a byte for each cell, row after row: the number of its part; as base64.
        words: why there are none; else empty.
    """

    width: int = 0
    height: int = 0
    labels: str = ""
    words: str = ""

    def to_json(self) -> dict[str, Any]:
        """All values, ready for JSON."""
        return asdict(self)


def picture_parts(
    service: Service, question: Question, on_progress: OnProgress | None = None
) -> SuperpixelResult:
    """The picture cut into superpixels (SLIC), as LIME cuts the model's input.

    Raises:
        TimmscopeError: the picture or the model cannot be used.
    """
    image = resolve(service, question, on_progress).batch.pictures[0].image.convert("RGB")
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)
    labels = superpixels(pixels, "slic", count=COUNT).numpy().clip(0, 255).astype(np.uint8)
    return SuperpixelResult(width, height, base64.b64encode(labels.tobytes()).decode())

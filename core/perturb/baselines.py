"""Baselines: reference inputs that stand for missing evidence.

Methods and metrics start from a baseline or replace removed pixels with it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from core.runtime.run import Run

Baseline = Literal["black", "white", "mean", "zero", "blur", "random"]
"""What replaces pixels.

- ``black``, ``white``: pixels of that colour, converted to model units.
- ``mean``: the mean colour of the image itself.
- ``zero``: 0 in model units, which is the mean colour of the training set.
- ``blur``: the image under a Gaussian blur with a sigma of 1/16 of its longer side.
- ``random``: uniform noise between black and white.
"""


def _split_text(value: object) -> object:
    return tuple(value.replace("+", ",").split(",")) if isinstance(value, str) else value


Baselines = Annotated[tuple[Baseline, ...], BeforeValidator(_split_text)]
"""One or several baselines to average over; also accepted as text such as "black,white"."""


def baseline_images(name: Baseline, run: Run, generator: torch.Generator | None = None) -> Tensor:
    """The baseline of every image of a run.

    Args:
        name: the kind of baseline.
        run: the run whose images `run.x` (B, C, H, W) it is made for.
        generator: source of the noise for ``random``; None starts a new generator at the run's
            seed.

    Returns:
        (B, C, H, W) in model units.
    """
    x = run.x
    if name == "blur":
        sigma = max(x.shape[-2:]) / 16
        blurred: Tensor = gaussian_blur(x, 2 * math.ceil(2 * sigma) + 1, sigma)
        return blurred
    if name == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if name == "zero":
        return torch.zeros_like(x)
    black, white = run.subject.pixel(0.0).to(x), run.subject.pixel(1.0).to(x)
    if name == "random":
        noise = torch.rand(x.shape[1:], generator=generator or run.generator()).to(x)
        return (black + noise * (white - black)).expand_as(x)
    return (black if name == "black" else white).expand_as(x)

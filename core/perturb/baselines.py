"""Pictures that say nothing: what a method or metric puts where evidence is taken away."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from core.runtime.run import Run

Baseline = Literal["black", "white", "mean", "zero", "blur", "random"]
"""Black and white are pixels of that colour, in model units; mean is the picture's own mean colour;
zero is zero in model units, the mean colour of the training set; blur is the picture, blurred;
random is uniform noise."""


def _split(value: object) -> object:
    return tuple(value.replace("+", ",").split(",")) if isinstance(value, str) else value


Baselines = Annotated[tuple[Baseline, ...], BeforeValidator(_split)]
"""One or several, to be averaged over; as text, "black,white"."""


def baseline_images(name: Baseline, run: Run, generator: torch.Generator | None = None) -> Tensor:
    """The baseline pictures (B, C, H, W) in model units for the images of a run.

    Args:
        name: which one.
        run: whose images.
        generator: for `random`; by default the run's own.
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

"""Masked copies of an image, as perturbation and Shapley methods feed to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from core.perturb.baselines import baseline_images
from core.runtime.batching import Chunk
from core.runtime.run import Run

MaskBaseline = Literal["blur", "mean", "inpaint", "black", "white", "zero"]
"""What replaces hidden pixels: a `Baseline`, or ``inpaint``, which fills them from the shown pixels
around them."""

Masker = Callable[[Tensor], Tensor]
"""Maps masks (n, H, W), True where the image is shown, to masked copies (n, C, H, W)."""

MASKS_PER_CHUNK = 8
"""How many masks are held in memory at full resolution at a time."""


def make_masker(run: Run, image: int, baseline: MaskBaseline) -> Masker:
    """A masker for one of the run's images.

    Args:
        run: the run whose image is masked.
        image: index of the image in the run's batch.
        baseline: what replaces hidden pixels.
    """
    x = run.x[image]
    if baseline == "inpaint":
        return lambda shown: inpainted(x, shown)
    return replacement_masker(x, baseline_images(baseline, run)[image])


def replacement_masker(x: Tensor, replacement: Tensor) -> Masker:
    """A masker that takes hidden pixels of `x` from `replacement`; both (C, H, W)."""
    return lambda shown: torch.where(shown[:, None], x, replacement)


def inpainted(x: Tensor, shown: Tensor) -> Tensor:
    """Fills hidden pixels of an image from the shown ones (push-pull; Gortler et al., 1996).

    Shown pixels are averaged over cells that double in size at each level. A hidden pixel takes
    the interpolated mean of the smallest cell that contains a shown pixel. If nothing is shown,
    every pixel gets the mean colour of the image.

    Args:
        x: (C, H, W) the image in model units.
        shown: (n, H, W) True where the image is kept.

    Returns:
        (n, C, H, W) in model units.
    """
    weight = shown[:, None].to(x)
    mean_colour = x.mean((1, 2))[:, None, None]
    return torch.where(shown[:, None], x, _push_pull(x * weight, weight, mean_colour))


def _push_pull(total: Tensor, weight: Tensor, mean_colour: Tensor) -> Tensor:
    """``total / weight``; where the weight is zero, the value of the next coarser grid."""
    size = (total.shape[-2], total.shape[-1])
    if size == (1, 1):
        coarser = mean_colour.expand_as(total)
    else:
        cell = (min(2, size[0]), min(2, size[1]))
        total_below, weight_below = (F.avg_pool2d(t, cell, ceil_mode=True) for t in (total, weight))
        below = _push_pull(total_below, weight_below, mean_colour)
        coarser = F.interpolate(below, size=size, mode="bilinear")
    return torch.where(weight > 0, total / weight.clamp_min(1e-12), coarser)


def segment_masked_copies(
    run: Run, image: int, masker: Masker, shown: Tensor, labels: Tensor
) -> Iterator[Chunk]:
    """Copies of one image that show only some of its segments.

    Args:
        run: the run whose image is masked.
        image: index of the image in the run's batch.
        masker: replaces the pixels of hidden segments.
        shown: (n, d) True where a copy shows a segment.
        labels: (H, W) the index of the segment that each pixel belongs to.

    Yields:
        Masked copies (k, C, H, W) with their owners (k,), n copies in total.
    """
    labels = labels.to(run.x.device)
    chunks = shown.to(labels.device).split(MASKS_PER_CHUNK)
    return masked_copies(run, image, masker, (chunk[:, labels] for chunk in chunks))


def masked_copies(run: Run, image: int, masker: Masker, masks: Iterable[Tensor]) -> Iterator[Chunk]:
    """Copies of one image under masks.

    Args:
        run: the run whose image is masked.
        image: index of the image in the run's batch.
        masker: replaces hidden pixels.
        masks: tensors (k, H, W), True where the image is shown.

    Yields:
        Masked copies (k, C, H, W) with their owners (k,).
    """
    for shown in masks:
        yield masker(shown), run.owner[image].expand(len(shown))

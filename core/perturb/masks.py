"""Parts of a picture hidden, others shown: what perturbation and Shapley methods show a model."""

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
"""What hidden pixels become; as for `Baseline`, and inpaint continues what is shown around them."""

Masker = Callable[[Tensor], Tensor]
"""From what is shown of an image (n, H, W), True or False, to its rows (n, C, H, W)."""

AT_ONCE = 8
"""How many masks exist at a time at full resolution."""


def masker(run: Run, image: int, baseline: MaskBaseline) -> Masker:
    """Hides pixels of one of the run's images."""
    x = run.x[image]
    if baseline == "inpaint":
        return lambda shown: inpainted(x, shown)
    return masker_with(x, baseline_images(baseline, run)[image])


def masker_with(x: Tensor, ground: Tensor) -> Masker:
    """Puts pixels of `ground` in place of those of `x` (both (C, H, W)) that are not shown."""
    return lambda shown: torch.where(shown[:, None], x, ground)


def inpainted(x: Tensor, shown: Tensor) -> Tensor:
    """An image (C, H, W) whose hidden pixels continue those shown (n, H, W), as (n, C, H, W).

    Shown pixels are averaged over ever larger cells, and a hidden one takes the mean of the
    smallest cell in which anything is shown, interpolated (push-pull; Gortler et al., 1996). With
    nothing shown at all it is the image's mean colour.
    """
    weight = shown[:, None].to(x)
    rest = x.mean((1, 2))[:, None, None]
    return torch.where(shown[:, None], x, _continued(x * weight, weight, rest))


def _continued(total: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    """`total` by `weight`, from the next coarser grid where the weight is zero."""
    size = (total.shape[-2], total.shape[-1])
    if size == (1, 1):
        beyond = rest.expand_as(total)
    else:
        cell = (min(2, size[0]), min(2, size[1]))
        few, many = (F.avg_pool2d(part, cell, ceil_mode=True) for part in (weight, total))
        beyond = F.interpolate(_continued(many, few, rest), size=size, mode="bilinear")
    return torch.where(weight > 0, total / weight.clamp_min(1e-12), beyond)


def rows_showing(
    run: Run, image: int, masker: Masker, parts: Tensor, labels: Tensor
) -> Iterator[Chunk]:
    """Rows of one image with only some of its parts shown.

    Args:
        run: whose image.
        image: which of them.
        masker: hides the rest.
        parts: (n, d) True where a row shows a part.
        labels: (H, W) the part that each pixel belongs to.
    """
    labels = labels.to(run.x.device)
    few = parts.to(labels.device).split(AT_ONCE)
    return masked_rows(run, image, masker, (some[:, labels] for some in few))


def masked_rows(run: Run, image: int, masker: Masker, masks: Iterable[Tensor]) -> Iterator[Chunk]:
    """Rows of one image under each of the masks (k, H, W)."""
    for shown in masks:
        yield masker(shown), run.owner[image].expand(len(shown))

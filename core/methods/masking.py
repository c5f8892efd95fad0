"""Parts of a picture hidden, others shown: what perturbation and Shapley methods show a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.engine import Run
from core.methods.base import Method
from core.methods.baselines import baseline
from core.passes import Piece
from core.segments import Segmentation, superpixels

Fill = Literal["blur", "mean", "inpaint", "black", "white", "zero"]
"""What hidden pixels become; as for `Baseline`, and inpaint continues what is shown around them."""

Veil = Callable[[Tensor], Tensor]
"""From what is shown of an image (n, H, W), True or False, to its rows (n, C, H, W)."""

AT_ONCE = 8
"""How many masks exist at a time at full resolution."""


def veil(run: Run, image: int, fill: Fill) -> Veil:
    """Hides pixels of one of the run's images."""
    x = run.x[image]
    if fill == "inpaint":
        return lambda shown: inpainted(x, shown)
    return veil_over(x, baseline(fill, run)[image])


def veil_over(x: Tensor, ground: Tensor) -> Veil:
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


def shown_parts(
    run: Run, image: int, veiled: Veil, parts: Tensor, labels: Tensor
) -> Iterator[Piece]:
    """Rows of one image with only some of its parts shown.

    Args:
        run: whose image.
        image: which of them.
        veiled: hides the rest.
        parts: (n, d) True where a row shows a part.
        labels: (H, W) the part that each pixel belongs to.
    """
    labels = labels.to(run.x.device)
    few = parts.to(labels.device).split(AT_ONCE)
    return pieces(run, image, veiled, (some[:, labels] for some in few))


def pieces(run: Run, image: int, veiled: Veil, masks: Iterable[Tensor]) -> Iterator[Piece]:
    """Rows of one image under each of the masks (k, H, W)."""
    for shown in masks:
        yield veiled(shown), run.owner[image].expand(len(shown))


class Segmented(Method):
    """A method that asks of a picture's parts rather than of its pixels."""

    segmentation: Segmentation = Field("slic", description="How the picture is cut into parts")
    segments: int = Field(
        50,
        ge=2,
        le=1000,
        description="Parts to aim at, for slic and grid; the others find their own number",
    )
    coarseness: float = Field(
        1.0, ge=0.25, le=8, description="Size of the parts, for quickshift and felzenszwalb"
    )

    def labels(self, run: Run, image: int) -> Tensor:
        """(H, W) the part of one of the run's images that each pixel belongs to, on the CPU."""
        how = self.segmentation, self.segments, self.coarseness

        def compute() -> Tensor:
            return superpixels(run.subject.to_pixels(run.x[image]), *how)

        return run.shelf.get_or_compute(("segments", image, how), compute)

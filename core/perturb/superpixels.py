"""Superpixels: a picture cut into parts that look alike."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Segmentation = Literal["slic", "quickshift", "felzenszwalb", "grid"]
"""Slic and grid make about as many parts as asked for; quickshift and felzenszwalb find out how
many there are, fewer when coarser."""


def superpixels(
    pixels: Tensor, how: Segmentation = "slic", count: int = 50, coarseness: float = 1.0
) -> Tensor:
    """The part (H, W) that each pixel belongs to: whole numbers from 0, none left out.

    Args:
        pixels: (C, H, W) the picture as displayed, in [0, 1]; 1 or 3 channels.
        how: the algorithm.
        count: how many parts to aim at, for slic and grid.
        coarseness: size of the parts for quickshift and felzenszwalb; 1 is what LIME takes for
            the one, what scikit-image proposes for the other.

    >>> superpixels(torch.zeros(3, 2, 4), "grid", count=2)
    tensor([[0, 0, 1, 1],
            [0, 0, 1, 1]])
    """
    height, width = pixels.shape[1:]
    if how == "grid":
        return _cells(height, width, count)
    picture = pixels.detach().cpu().double().expand(3, -1, -1).permute(1, 2, 0).numpy()
    _, labels = np.unique(_segmented(picture, how, count, coarseness), return_inverse=True)
    return torch.from_numpy(labels.reshape(height, width).astype(np.int64))


def grid_shape(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns of about `count` cells, as square as they can be.

    >>> grid_shape(224, 224, 50), grid_shape(2, 5, 10), grid_shape(8, 8, 1000)
    ((7, 7), (2, 5), (8, 8))
    """
    rows = min(height, max(1, round((count * height / width) ** 0.5)))
    return rows, min(width, max(1, round(count / rows)))


def _cells(height: int, width: int, count: int) -> Tensor:
    rows, columns = grid_shape(height, width, count)
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    return row[:, None] * columns + column


def _segmented(
    picture: NDArray[np.float64], how: Segmentation, count: int, coarseness: float
) -> NDArray[np.int64]:
    from skimage import segmentation  # here: it takes long to import, and few ask for it

    found: Any
    if how == "slic":
        found = segmentation.slic(picture, n_segments=count, start_label=0)
    elif how == "quickshift":
        found = segmentation.quickshift(  # type: ignore[no-untyped-call]
            picture, 0.2, kernel_size=4 * coarseness, max_dist=200
        )
    else:
        found = segmentation.felzenszwalb(picture, scale=100 * coarseness, sigma=0.5, min_size=50)
    return np.asarray(found, dtype=np.int64)

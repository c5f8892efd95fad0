"""Superpixels: segments of an image whose pixels look alike."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Segmentation = Literal["slic", "quickshift", "felzenszwalb", "grid"]
"""``slic`` and ``grid`` make about as many segments as requested. ``quickshift`` and
``felzenszwalb`` choose the number themselves; a higher coarseness gives fewer segments."""


def superpixels(
    pixels: Tensor, how: Segmentation = "slic", count: int = 50, coarseness: float = 1.0
) -> Tensor:
    """Cuts an image into segments.

    Args:
        pixels: (C, H, W) pixel values in [0, 1]; 1 or 3 channels.
        how: the algorithm.
        count: approximate number of segments, for ``slic`` and ``grid``.
        coarseness: size of the segments for ``quickshift`` and ``felzenszwalb``; 1 gives LIME's
            setting of quickshift and scikit-image's default of felzenszwalb.

    Returns:
        (H, W) int64, the index of the segment that each pixel belongs to, from 0 without gaps.

    >>> superpixels(torch.zeros(3, 2, 4), "grid", count=2)
    tensor([[0, 0, 1, 1],
            [0, 0, 1, 1]])
    """
    height, width = pixels.shape[1:]
    if how == "grid":
        return _grid_cells(height, width, count)
    picture = pixels.detach().cpu().double().expand(3, -1, -1).permute(1, 2, 0).numpy()
    _, labels = np.unique(_segmented(picture, how, count, coarseness), return_inverse=True)
    return torch.from_numpy(labels.reshape(height, width).astype(np.int64))


def grid_shape(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns of a grid with about `count` cells that are nearly square.

    >>> grid_shape(224, 224, 50), grid_shape(2, 5, 10), grid_shape(8, 8, 1000)
    ((7, 7), (2, 5), (8, 8))
    """
    rows = min(height, max(1, round((count * height / width) ** 0.5)))
    return rows, min(width, max(1, round(count / rows)))


def _grid_cells(height: int, width: int, count: int) -> Tensor:
    rows, columns = grid_shape(height, width, count)
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    return row[:, None] * columns + column


def _segmented(
    picture: NDArray[np.float64], how: Segmentation, count: int, coarseness: float
) -> NDArray[np.int64]:
    from skimage import segmentation  # here because the import is slow and few callers need it

    labels: Any
    if how == "slic":
        labels = segmentation.slic(picture, n_segments=count, start_label=0)
    elif how == "quickshift":
        labels = segmentation.quickshift(  # type: ignore[no-untyped-call]
            picture, 0.2, kernel_size=4 * coarseness, max_dist=200
        )
    else:
        labels = segmentation.felzenszwalb(picture, scale=100 * coarseness, sigma=0.5, min_size=50)
    return np.asarray(labels, dtype=np.int64)

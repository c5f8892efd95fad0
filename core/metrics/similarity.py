"""How alike two maps are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

TOP = 0.1
"""The share of the pixels that top-k overlap looks at."""


def ranks(values: Tensor) -> Tensor:
    """Each value's rank among all, from 0 to 1, equal values sharing theirs; of the same shape.

    >>> ranks(torch.tensor([5.0, 1.0, 1.0, 9.0]))
    tensor([0.6667, 0.1667, 0.1667, 1.0000])
    """
    flat = values.flatten()
    _, places, counts = flat.unique(sorted=True, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    middle = last - (counts - 1) / 2 - 1
    found: Tensor = middle[places] / max(1, len(flat) - 1)
    return found.float().view_as(values)


def spearman(some: Tensor, others: Tensor) -> float:
    """Rank correlation of two maps; 1 where both are constant, 0 where one is.

    >>> round(spearman(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.1, 0.2]])), 6)
    1.0
    """
    a, b = (ranks(v).double().flatten() for v in (some, others))
    a, b = a - a.mean(), b - b.mean()
    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    return float((a @ b / (a.norm() * b.norm())).clamp(-1, 1))


def overlap(some: Tensor, others: Tensor, share: float = TOP) -> float:
    """Intersection over union of the pixels that two maps rank highest, ties at random."""
    count = max(1, round(share * some.numel()))
    tops = [_top(v, count) for v in (some, others)]
    return float((tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum())


def _top(values: Tensor, count: int) -> Tensor:
    flat = values.flatten()
    shuffle = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
    order = shuffle[flat[shuffle].argsort(descending=True, stable=True)]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order[:count], True)


def ssim(some: Tensor, others: Tensor) -> float:
    """Structural similarity (Wang et al., 2004) of two maps, each scaled to the unit range."""
    # Imported where needed: it takes long, and few ask for it.
    from skimage.metrics import structural_similarity

    a, b = (_unit(v) for v in (some, others))
    window = min(7, *a.shape)
    window -= 1 - window % 2
    compare: Any = structural_similarity
    return float(compare(a, b, win_size=window, data_range=1.0))


def _unit(values: Tensor) -> np.ndarray:
    array = values.double().numpy()
    span = np.ptp(array)
    scaled: np.ndarray = (array - array.min()) / span if span > 0 else np.zeros_like(array)
    return scaled

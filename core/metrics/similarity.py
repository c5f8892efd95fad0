"""How similar two maps are.

A map of equal values has no order and no shape to compare, so every similarity with it is NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.runtime.noise import is_constant

# scipy.stats and scikit-image are imported where they are used: it takes seconds, and few ask.

TOP = 0.1
"""The share of the pixels that `overlap` compares."""


def comparable(some: Tensor, others: Tensor) -> bool:
    """Whether each of two maps (H, W) has values that differ by more than rounding errors.

    >>> comparable(torch.eye(2), torch.eye(2)), comparable(torch.eye(2), torch.zeros(2, 2))
    (True, False)
    """
    return not is_constant(torch.stack([some, others])).any()


def ranks(values: Tensor) -> Tensor:
    """The rank of each value, from 0 to 1, in the shape of `values`; equal values share a rank.

    >>> ranks(torch.tensor([5.0, 1.0, 1.0, 9.0]))
    tensor([0.6667, 0.1667, 0.1667, 1.0000])
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    places = rankdata(values.numpy(), axis=None).reshape(values.shape) - 1
    return torch.from_numpy(places / max(1, values.numel() - 1)).float()


def spearman(some: Tensor, others: Tensor) -> float:
    """Rank correlation of two maps (H, W), -1 to 1; NaN if one is constant.

    >>> round(spearman(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.1, 0.2]])), 6)
    1.0
    """
    from scipy.stats import spearmanr

    if not comparable(some, others):
        return math.nan
    a, b = (values.flatten().numpy() for values in (some, others))
    return float(np.clip(spearmanr(a, b).statistic, -1, 1))


def pearson(some: Tensor, others: Tensor) -> float:
    """Linear correlation of two maps (H, W), -1 to 1; NaN if one is constant.

    >>> round(pearson(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[-2.0, -4.0, -18.0]])), 6)
    -1.0
    """
    if not comparable(some, others):
        return math.nan
    both = torch.stack([some.flatten(), others.flatten()]).double()
    return float(torch.corrcoef(both)[0, 1].clamp(-1, 1))


def overlap(some: Tensor, others: Tensor, share: float = TOP) -> float:
    """Intersection over union, 0 to 1, of the pixels with the largest values in two maps (H, W).

    NaN if a map is constant.

    Args:
        some: a map.
        others: another map.
        share: the share of the pixels to compare. Ties are broken at random, with a fixed seed.
    """
    if not comparable(some, others):
        return math.nan
    count = max(1, round(share * some.numel()))
    tops = [_top(v, count) for v in (some, others)]
    return float((tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum())


def _top(values: Tensor, count: int) -> Tensor:
    """(H*W,) True for the `count` largest values."""
    flat = values.flatten()
    shuffle = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
    order = shuffle[flat[shuffle].argsort(descending=True, stable=True)]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order[:count], True)


def ssim(some: Tensor, others: Tensor) -> float:
    """Structural similarity (Wang et al., 2004) of two maps (H, W), each scaled to 0 to 1.

    NaN if a map is constant.
    """
    from skimage.metrics import structural_similarity

    if not comparable(some, others):
        return math.nan

    a, b = (_scaled(v) for v in (some, others))
    window = min(7, *a.shape)
    window -= 1 - window % 2
    compare: Any = structural_similarity
    return float(compare(a, b, win_size=window, data_range=1.0))


def _scaled(values: Tensor) -> NDArray[np.float64]:
    """The values from 0 to 1; they are not all equal."""
    array = values.double().numpy()
    scaled: NDArray[np.float64] = (array - array.min()) / np.ptp(array)
    return scaled

"""How similar two maps are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# scipy.stats and scikit-image are imported where they are used: it takes seconds, and few ask.

TOP = 0.1
"""The share of the pixels that `overlap` compares."""


def ranks(values: Tensor) -> Tensor:
    """The rank of each value, from 0 to 1, in the shape of `values`; equal values share a rank.

    >>> ranks(torch.tensor([5.0, 1.0, 1.0, 9.0]))
    tensor([0.6667, 0.1667, 0.1667, 1.0000])
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    places = rankdata(values.numpy(), axis=None).reshape(values.shape) - 1
    return torch.from_numpy(places / max(1, values.numel() - 1)).float()


def spearman(some: Tensor, others: Tensor) -> float:
    """Rank correlation of two maps (H, W), -1 to 1; 1 if both are constant, 0 if one is.

    >>> round(spearman(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.1, 0.2]])), 6)
    1.0
    """
    from scipy.stats import spearmanr

    a, b = (values.flatten().numpy() for values in (some, others))
    constant = [bool((values == values[0]).all()) for values in (a, b)]
    if any(constant):
        return float(all(constant))
    return float(np.clip(spearmanr(a, b).statistic, -1, 1))


def overlap(some: Tensor, others: Tensor, share: float = TOP) -> float:
    """Intersection over union, 0 to 1, of the pixels with the largest values in two maps (H, W).

    Args:
        some: a map.
        others: another map.
        share: the share of the pixels to compare. Ties are broken at random, with a fixed seed.
    """
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
    """Structural similarity (Wang et al., 2004) of two maps (H, W), each scaled to 0 to 1."""
    from skimage.metrics import structural_similarity

    a, b = (_scaled(v) for v in (some, others))
    window = min(7, *a.shape)
    window -= 1 - window % 2
    compare: Any = structural_similarity
    return float(compare(a, b, win_size=window, data_range=1.0))


def _scaled(values: Tensor) -> NDArray[np.float64]:
    """The values from 0 to 1; zeros if all are equal."""
    array = values.double().numpy()
    span = np.ptp(array)
    scaled: NDArray[np.float64] = (array - array.min()) / span if span > 0 else np.zeros_like(array)
    return scaled

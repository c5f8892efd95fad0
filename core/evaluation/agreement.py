"""How far methods agree on which pixels count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.metrics.similarity import overlap, ranks, spearman, ssim


@dataclass(frozen=True, slots=True)
class Agreement:
    """Every pair of methods on one picture; tables (m, m), symmetric, 1 on the diagonal.

    Attributes:
        methods: the keys, in the order of rows and columns.
        spearman: rank correlation, from -1 to 1.
        overlap: intersection over union of the pixels ranked highest.
        ssim: structural similarity of the maps scaled to the unit range.
        disagreement: (H, W) standard deviation, over methods, of each pixel's rank from 0 to 1.
    """

    methods: tuple[str, ...]
    spearman: Tensor
    overlap: Tensor
    ssim: Tensor
    disagreement: Tensor


def agreement(maps: Mapping[str, Tensor]) -> Agreement:
    """Compare maps (H, W) on one common grid."""
    keys = tuple(maps)
    values = torch.stack([maps[key].float() for key in keys])
    return Agreement(
        keys,
        _table(values, spearman),
        _table(values, overlap),
        _table(values, ssim),
        torch.stack([ranks(v) for v in values]).std(0, correction=0),
    )


def _table(values: Tensor, compare: Callable[[Tensor, Tensor], float]) -> Tensor:
    table = torch.eye(len(values))
    for i in range(len(values)):
        for j in range(i):
            table[i, j] = table[j, i] = compare(values[i], values[j])
    return table

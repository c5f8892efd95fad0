"""How far methods agree on which pixels matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.metrics.similarity import overlap, pearson, ranks, spearman, ssim
from core.result import Result


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Agreement(Result):
    """How similar m maps of one picture are; tables (m, m), symmetric, 1 on the diagonal.

    Attributes:
        methods: names of the maps, such as those of methods, in the order of rows and columns.
        pearson: linear correlation, -1 to 1.
        spearman: rank correlation, -1 to 1.
        overlap: intersection over union of the top 10% of the pixels, 0 to 1.
        ssim: structural similarity of the maps, each scaled to 0 to 1.
        disagreement: (H, W) standard deviation, over the maps, of each pixel's rank (0 to 1).
    """

    methods: tuple[str, ...]
    pearson: Tensor
    spearman: Tensor
    overlap: Tensor
    ssim: Tensor
    disagreement: Tensor


def agreement(maps: Mapping[str, Tensor]) -> Agreement:
    """Compare every pair of maps.

    Args:
        maps: (H, W) by name, all on the same grid; at least one.
    """
    keys = tuple(maps)
    values = torch.stack([maps[key].float() for key in keys])
    return Agreement(
        keys,
        _table(values, pearson),
        _table(values, spearman),
        _table(values, overlap),
        _table(values, ssim),
        torch.stack([ranks(v) for v in values]).std(0, correction=0),
    )


def _table(values: Tensor, compare: Callable[[Tensor, Tensor], float]) -> Tensor:
    """(m, m) the similarity of every pair of maps (m, H, W)."""
    table = torch.eye(len(values))
    for i in range(len(values)):
        for j in range(i):
            table[i, j] = table[j, i] = compare(values[i], values[j])
    return table

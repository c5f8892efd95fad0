"""Tokens of outlying norm: they hold the largest values of many maps, and no evidence.

Transformers use a few tokens as registers for what concerns the whole picture, often in its corners
or on plain ground (Darcet et al., 2024, arXiv:2309.16588). Their norm is far above that of all
others, and so is their value in maps that multiply by it; a token that every other attends to
stands out in maps of attention in the same way.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from core.runtime.run import Run
from core.types import Need

DEVIATIONS = 5.0
"""An outlier is this many standard deviations, estimated from the median deviation, above the
median."""
RATIO = 2.5
"""And at least this many times the median. On a transformer without outliers, world_vit, the
largest norm at any block is 2.4 times the median."""

MaskOutliers = Field(
    False,
    title="Mask outlying tokens",
    description="In a transformer, leave out the few tokens whose norm (of attention maps: the "
    "attention that they receive) is far above that of all others: they hold no evidence, and get "
    "the value 0",
    json_schema_extra={"needs": [Need.ATTENTION]},
)
"""The parameter of methods that read a layer's tokens; without attention it changes nothing."""


def outlying(strength: Tensor) -> Tensor:
    """Which cells are far stronger than the others of their picture.

    Args:
        strength: (B, h, w) the size of each cell, not negative.

    Returns:
        (B, h, w) True for outliers.

    >>> grid = torch.ones(1, 3, 3) + torch.arange(9).view(1, 3, 3) / 100
    >>> grid[0, 0, 2] = 9
    >>> outlying(grid).nonzero().tolist()
    [[0, 0, 2]]
    """
    flat = strength.flatten(1).float()
    median = flat.median(1, keepdim=True).values
    spread = 1.4826 * (flat - median).abs().median(1, keepdim=True).values
    far = (flat > median + DEVIATIONS * spread) & (flat > RATIO * median)
    return far.view_as(strength)


def outlying_tokens(run: Run, act: Tensor) -> Tensor:
    """(B, h, w) the tokens of outlying norm in a layer's output (B, K, h, w).

    None in a model without attention: the norm of a convolutional layer's cells differs much
    between object and background, which is evidence.
    """
    if not run.subject.attention_layers:
        return torch.zeros_like(act[:, 0], dtype=torch.bool)
    return outlying(act.norm(dim=1))


def without(cells: Tensor, outliers: Tensor) -> Tensor:
    """Cells (B, h, w) or (B, K, h, w) with outliers (B, h, w) set to 0."""
    return cells.where(~(outliers if cells.ndim == outliers.ndim else outliers[:, None]), 0)


def report_outliers(run: Run, values: Tensor, outliers: Tensor) -> None:
    """Tell of outliers in the extras of a run on a transformer.

    ``outlying_tokens`` (B,) is their number, ``largest_on_outlier`` (B,) 1 where the map has its
    largest value on one of them, and ``outlier_mask`` (B, h, w) where they are.

    Args:
        run: the run.
        values: (B, h, w) the map, before outliers are masked.
        outliers: (B, h, w) True for outliers.
    """
    if not run.subject.attention_layers:
        return
    found, marked = values.flatten(1), outliers.flatten(1)
    largest = marked.gather(1, found.argmax(1, keepdim=True))[:, 0] & found.any(1)
    run.extras["outlying_tokens"] = marked.sum(1)
    run.extras["largest_on_outlier"] = largest.long()
    run.extras["outlier_mask"] = outliers.float()

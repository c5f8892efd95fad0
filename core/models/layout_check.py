"""Checks the order of a layer's cells by perturbing single pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.runtime.capture import observe_outputs
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.forward import Forward
from core.types import Layout

MAX_DISTANCE = 1.5
"""How many cells a response may be away from its expected position."""
MAX_SPREAD = 0.15
"""Standard deviation, as a share of the axis, below which a response counts as concentrated; a
uniform response has 0.29."""
PIXELS = ((0.2, 0.8), (0.7, 0.3))
"""Approximate positions of the perturbed pixels, as shares of height and width."""
PERTURBATION = 10.0
"""What is added to a pixel, in model units."""


def out_of_order(
    model: nn.Module, x: Tensor, layouts: Mapping[str, Layout], forward: Forward
) -> set[str]:
    """Finds layers whose cells are not in the order of their layout.

    A pixel is perturbed, and a layer whose response is concentrated at another position is
    reported. A layer whose response is spread widely, as after global attention, is not. This takes
    one pass of three rows.

    Args:
        model: the model; it is left unchanged.
        x: (1, C, H, W) any picture in model units.
        layouts: the presumed layout of each layer's output, by layer name.
        forward: how the model is called.
    """
    height, width = x.shape[2:]
    # A pixel at such a position influences one token only, also through odd-sized convolutions.
    step = 1 << max(2, (min(height, width) // 8).bit_length() - 1)
    rows = x.repeat(1 + len(PIXELS), 1, 1, 1)
    positions = []
    for row, (down, right) in zip(rows[1:], PIXELS, strict=True):
        top, left = int(down * height) // step * step, int(right * width) // step * step
        row[:, top, left] += PERTURBATION
        positions.append(((top + 0.5) / height, (left + 0.5) / width))
    found = set()

    def see(name: str, output: Any) -> None:
        layout = layouts.get(name)
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        if layout is None or shape != (len(rows), *layout.shape):
            return
        cells = layout.to_nchw(output)
        change = (cells[1:] - cells[:1]).square().sum(1)
        if any(_is_elsewhere(one, at) for one, at in zip(change, positions, strict=True)):
            found.add(name)

    with torch.no_grad(), evaluation_mode(model), observe_outputs(model, see):
        forward.raw(rows)
    return found


def _is_elsewhere(change: Tensor, position: tuple[float, float]) -> bool:
    """Whether the change (h, w) is concentrated, but not at `position` (y, x), each in [0, 1]."""
    if not change.any():
        return False
    height, width = change.shape
    return concentrated_elsewhere(
        change.sum(1), height, position[0] * height
    ) or concentrated_elsewhere(change.sum(0), width, position[1] * width)


def concentrated_elsewhere(weights: Tensor, cells: int, position: float) -> bool:
    """Whether a distribution along an axis is concentrated, but not at the expected position.

    Args:
        weights: (n,) the distribution; need not be normalised.
        cells: length of the axis in cells.
        position: the expected position, in cells from 0 to `cells`.

    >>> here, everywhere = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.ones(4)
    >>> concentrated_elsewhere(here, 8, 5.5), concentrated_elsewhere(here, 8, 1.0)
    (False, True)
    >>> concentrated_elsewhere(everywhere, 8, 1.0)
    False
    """
    share = weights / weights.sum()
    at = (torch.arange(len(share)).to(share) + 0.5) * cells / len(share)
    centre = (share * at).sum()
    spread = (share * (at - centre) ** 2).sum().sqrt()
    concentrated = spread < min(MAX_DISTANCE, MAX_SPREAD * cells)
    return bool(concentrated and (centre - position).abs() > MAX_DISTANCE)

"""Whether layers keep their cells in the picture's order, told by touching the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.runtime.capture import observe_outputs
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.model_call import call_model
from core.types import Layout

NEAR = 1.5
"""How many cells something may be from where it is said to lie."""
CLOSE = 0.15
"""The spread, as a share of the axis, up to which something lies in one place; evenly spread, it
would be 0.29."""
TOUCHED = ((0.2, 0.8), (0.7, 0.3))
"""About where the picture is touched, as shares of its height and width."""
TOUCH = 10.0
"""How much is added to one pixel, in model units."""


def out_of_order(
    model: nn.Module, x: Tensor, layouts: Mapping[str, Layout], model_name: str
) -> set[str]:
    """The layers that react to a touched pixel elsewhere than where it is.

    Where the reaction spreads wide, as after attention among all tokens, nothing speaks against the
    order. One pass of three rows.

    Args:
        model: it is left as it was.
        x: (1, C, H, W) any picture in model units.
        layouts: how the layers' outputs are thought to lie on it, by name.
        model_name: what the model is called in messages.
    """
    height, width = x.shape[2:]
    # A pixel so aligned is seen by one token alone, by way of convolutions of odd width as well.
    step = 1 << max(2, (min(height, width) // 8).bit_length() - 1)
    rows = x.repeat(1 + len(TOUCHED), 1, 1, 1)
    places = []
    for row, (down, right) in zip(rows[1:], TOUCHED, strict=True):
        top, left = int(down * height) // step * step, int(right * width) // step * step
        row[:, top, left] += TOUCH
        places.append(((top + 0.5) / height, (left + 0.5) / width))
    found = set()

    def see(name: str, output: Any) -> None:
        layout = layouts.get(name)
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        if layout is None or shape != (len(rows), *layout.shape):
            return
        cells = layout.to_nchw(output)
        change = (cells[1:] - cells[:1]).square().sum(1)
        if any(_elsewhere(one, place) for one, place in zip(change, places, strict=True)):
            found.add(name)

    with torch.no_grad(), evaluation_mode(model), observe_outputs(model, see):
        call_model(model, rows, name=model_name)
    return found


def _elsewhere(change: Tensor, place: tuple[float, float]) -> bool:
    """Whether all change (h, w) is close together, and not at this place."""
    if not change.any():
        return False
    height, width = change.shape
    return astray(change.sum(1), height, place[0] * height) or astray(
        change.sum(0), width, place[1] * width
    )


def astray(weights: Tensor, cells: int, place: float) -> bool:
    """Whether a distribution over an axis `cells` long lies in one place, and it is another one.

    >>> here, everywhere = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.ones(4)
    >>> astray(here, 8, 5.5), astray(here, 8, 1.0), astray(everywhere, 8, 1.0)
    (False, True, False)
    """
    share = weights / weights.sum()
    at = (torch.arange(len(share)).to(share) + 0.5) * cells / len(share)
    centre = (share * at).sum()
    spread = (share * (at - centre) ** 2).sum().sqrt()
    return bool(spread < min(NEAR, CLOSE * cells) and (centre - place).abs() > NEAR)

"""Checks whether layers see the picture as it is, by perturbing single pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelFailure
from core.models.module_calls import CallId
from core.runtime.batching import is_out_of_memory
from core.runtime.capture import CallPath, observe_calls
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.forward import Forward
from core.types import Layout

MAX_DISTANCE = 1.5
"""How many cells a response may be away from its expected position."""
MAX_SPREAD = 0.15
"""Standard deviation, as a share of the axis, below which a response counts as concentrated; a
uniform response has 0.29."""
MAX_REVERSAL = 0.15
"""How far responses may move against the perturbed pixels, as a share of what these move."""
MAX_TURN = 0.35
"""How far responses may move across the perturbed pixels, as a share of what these move."""
PIXELS = ((0.2, 0.8), (0.7, 0.3), (0.3, 0.2), (0.8, 0.7))
"""Approximate positions of the perturbed pixels, as shares of height and width."""
PERTURBATION = 10.0
"""What is added to a pixel, in model units."""


def misplaced_calls(
    model: nn.Module, x: Tensor, layout_of: Callable[[Tensor], Layout | None], forward: Forward
) -> set[CallId]:
    """Finds the calls of modules that do not see the picture as it is.

    Pixels are perturbed one at a time. A call is reported if the response in its output is
    concentrated at another position, or if the responses move against or across the pixels: its
    cells are mirrored, turned, cropped or in another order. If that is so of what a module is
    given as an image, all that runs within the call is reported too. A response that is spread
    widely and evenly, as after global attention, is no reason. This takes one pass of five rows;
    nothing is reported of a model that takes no more than one, or where memory runs out.

    Args:
        model: the model; it is left unchanged.
        x: (1, C, H, W) any picture in model units.
        layout_of: the layout of a tensor of one image; None if it has none.
        forward: how the model is called.
    """
    rows, pixels = _perturbed(x)
    turned: set[CallId] = set()
    found: set[CallId] = set()
    last: tuple[Any, bool] = None, False  # what leaves a module usually enters the next

    def is_misplaced(tensor: Any) -> bool:
        nonlocal last
        if not isinstance(tensor, Tensor) or len(tensor) != len(rows):
            return False
        if tensor is not last[0]:
            layout = layout_of(tensor[:1])
            if layout is None:
                return False
            cells = layout.to_nchw(tensor.detach())
            last = tensor, _is_misplaced((cells[1:] - cells[:1]).square_().sum(1), pixels)
        return last[1]

    def before(path: CallPath, given: Tensor | None) -> None:
        if given is None or given.ndim != 4 or turned.intersection(path):
            return
        unclear = len(set(given.shape[1:])) == 1  # any of the axes may be the channels
        if not unclear and is_misplaced(given):
            turned.add(path[-1])

    def after(path: CallPath, output: Any) -> None:
        if turned.intersection(path) or is_misplaced(output):
            found.add(path[-1])

    try:
        with torch.no_grad(), evaluation_mode(model), observe_calls(model, before, after):
            forward.raw(rows)
    except ModelFailure:  # it takes one image at a time
        return set()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return set()
    return found


def _perturbed(x: Tensor) -> tuple[Tensor, Tensor]:
    """The picture and its perturbed copies; and the pixels' (y, x) as shares of height and width.

    A pixel at such a position influences one token only, also through odd-sized convolutions.
    """
    height, width = x.shape[2:]
    step = 1 << max(2, (min(height, width) // 8).bit_length() - 1)
    rows = x.repeat(1 + len(PIXELS), 1, 1, 1)
    positions = []
    for row, (down, right) in zip(rows[1:], PIXELS, strict=True):
        top, left = int(down * height) // step * step, int(right * width) // step * step
        row[:, top, left] += PERTURBATION
        positions.append(((top + 0.5) / height, (left + 0.5) / width))
    return rows, torch.tensor(positions, dtype=torch.float64, device=x.device)


def _is_misplaced(change: Tensor, pixels: Tensor) -> bool:
    """Whether the changes (n, h, w) are not where the `pixels` (n, 2) are that caused them."""
    rows, columns = change.sum(2), change.sum(1)
    live = rows.sum(1) > 0
    if any(
        concentrated_elsewhere(sums[live], sums.shape[1], pixels[live, axis] * sums.shape[1])
        for axis, sums in enumerate((rows, columns))
    ):
        return True
    return bool(live.all()) and min(change.shape[1:]) >= 3 and _moves_otherwise(change, pixels)


def _moves_otherwise(change: Tensor, pixels: Tensor) -> bool:
    """Whether changes (n, h, w) move against or across the pixels (n, 2) that cause them."""
    centres = torch.stack([_centre(change.sum(2)), _centre(change.sum(1))], 1).double()
    centres = centres / torch.tensor(change.shape[1:], device=centres.device)
    away = pixels - pixels.mean(0)
    if torch.linalg.det(away.mT @ away) <= 1e-9:  # too few pixels to tell directions apart
        return False
    # moved[i, j]: how far the response moves along axis j when a pixel moves along axis i
    moved = torch.linalg.solve(away.mT @ away, away.mT @ (centres - centres.mean(0)))
    along, across = moved.diagonal(), moved.fliplr().diagonal()
    return bool((along < -MAX_REVERSAL).any() or (across.abs() > MAX_TURN).any())


def _centre(weights: Tensor) -> Tensor:
    """The centre (n,) of each distribution (n, cells) along an axis, in cells."""
    at = torch.arange(weights.shape[1]).to(weights) + 0.5
    return (weights * at).sum(1) / weights.sum(1)


def concentrated_elsewhere(weights: Tensor, cells: int, position: float | Tensor) -> bool:
    """Whether a distribution along an axis is concentrated, but not at the expected position.

    Args:
        weights: (n,) the distribution, or (m, n) several; need not be normalised.
        cells: length of the axis in cells.
        position: the expected position, in cells from 0 to `cells`; (m,) of several.

    >>> here, everywhere = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.ones(4)
    >>> concentrated_elsewhere(here, 8, 5.5), concentrated_elsewhere(here, 8, 1.0)
    (False, True)
    >>> concentrated_elsewhere(everywhere, 8, 1.0)
    False
    """
    share = weights / weights.sum(-1, keepdim=True)
    at = (torch.arange(share.shape[-1]).to(share) + 0.5) * cells / share.shape[-1]
    centre = (share * at).sum(-1, keepdim=True)
    spread = (share * (at - centre) ** 2).sum(-1).sqrt()
    concentrated = spread < min(MAX_DISTANCE, MAX_SPREAD * cells)
    away = (centre[..., 0] - position).abs() > MAX_DISTANCE
    return bool((concentrated & away).any())

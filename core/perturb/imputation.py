"""What removed pixels become; above all noisy linear imputation, after Rong et al. (2022)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.perturb.baselines import baseline_images
from core.perturb.masks import MaskBaseline, Masker, masker, masker_with
from core.runtime.run import Run

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
TokenMap = NDArray[np.int64]

BESIDE, ACROSS = 1 / 6, 1 / 12
"""How much a pixel's neighbours count, those that share a side and those that share a corner."""
NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, in model units."""

RemovalBaseline = Literal[MaskBaseline, "random", "imputation"]
"""What removed pixels become; as for `MaskBaseline` and `Baseline`, and imputation makes each the
mean of its neighbours, plus noise (slow: a second or so for each picture shown)."""
_OFFSETS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
_OUTSIDE, _SHOWN = -2, -1


def remover(run: Run, image: int, baseline: RemovalBaseline) -> Masker:
    """Removes pixels of one of the run's images."""
    if baseline == "random":
        return masker_with(run.x[image], baseline_images(baseline, run)[image])
    if baseline != "imputation":
        return masker(run, image, baseline)
    noise = NOISE * torch.randn(run.x[image].shape, generator=run.generator())
    return lambda shown: imputed(run.x[image], shown, noise)


def imputed(x: Tensor, shown: Tensor, noise: Tensor | float) -> Tensor:
    """An image (C, H, W) with its hidden pixels filled in, once for each mask `shown` (n, H, W).

    Every hidden pixel is the weighted mean of its eight neighbours, hidden ones among them, plus
    noise: one sparse system of linear equations a mask. With nothing shown it is the image's mean
    colour.

    Args:
        x: in model units.
        shown: True where the image is shown.
        noise: (C, H, W) what is added where a pixel is hidden, in model units; or 0.
    """
    values, rows = x.detach().cpu().double().numpy(), []
    for mask in shown.cpu().numpy():
        row = torch.from_numpy(filled(values, mask))
        hidden = torch.from_numpy(~mask)
        row += noise * hidden
        rows.append(row)
    return torch.stack(rows).to(x)


def filled(x: Floats, shown: Mask) -> Floats:
    """The image (C, H, W) with the pixels that are not `shown` (H, W) filled in, without noise."""
    # Imported where needed: it takes long, and few ask for it.
    from scipy.sparse import csc_array  # type: ignore[import-untyped]
    from scipy.sparse.linalg import splu  # type: ignore[import-untyped]

    found, hidden = x.copy(), ~shown
    if not shown.any():
        found[:] = x.mean((1, 2), keepdims=True)
    elif hidden.any():
        found[:, hidden] = splu(csc_array(_system(hidden))).solve(_known(x, hidden)).T
    return found


def _numbers(hidden: Mask) -> TokenMap:
    """The hidden pixels numbered, the others told apart, with a rim of what is outside."""
    numbers = np.full(hidden.shape, _SHOWN)
    numbers[hidden] = np.arange(hidden.sum())
    return np.pad(numbers, 1, constant_values=_OUTSIDE)


def _weight(y: int, x: int) -> float:
    return ACROSS if y and x else BESIDE


def _moved(padded: NDArray[Any], y: int, x: int) -> NDArray[Any]:
    """What lies at this offset from each pixel."""
    height, width = padded.shape[-2] - 2, padded.shape[-1] - 2
    return padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width]


def _system(hidden: Mask) -> tuple[Floats, tuple[TokenMap, TokenMap]]:
    """What the hidden pixels' equations say of hidden pixels: weights, their rows and columns."""
    numbers, count = _numbers(hidden), int(hidden.sum())
    own = np.zeros(count)
    rows, columns, weights = [np.arange(count)], [np.arange(count)], [own]
    for offset in _OFFSETS:
        neighbour, weight = _moved(numbers, *offset)[hidden], _weight(*offset)
        own += weight * (neighbour != _OUTSIDE)
        among = np.flatnonzero(neighbour >= 0)
        rows.append(among)
        columns.append(neighbour[among])
        weights.append(np.full(len(among), -weight))
    return np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))


def _known(x: Floats, hidden: Mask) -> Floats:
    """What the hidden pixels' equations take from shown ones (n, C)."""
    numbers, padded = _numbers(hidden), np.pad(x, ((0, 0), (1, 1), (1, 1)))
    total = np.zeros((int(hidden.sum()), len(x)))
    for offset in _OFFSETS:
        shown = _moved(numbers, *offset)[hidden] == _SHOWN
        total[shown] += _weight(*offset) * _moved(padded, *offset)[:, hidden].T[shown]
    return total

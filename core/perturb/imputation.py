"""Replacing removed pixels, among others by noisy linear imputation (Rong et al., 2022)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.perturb.baselines import baseline_images
from core.perturb.masks import MaskBaseline, Masker, make_masker, replacement_masker
from core.runtime.run import Run

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]

EDGE_WEIGHT, CORNER_WEIGHT = 1 / 6, 1 / 12
"""Weights of a pixel's neighbours: the four that share an edge, and the four at its corners."""
NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, in model units."""

RemovalBaseline = Literal[MaskBaseline, "random", "imputation"]
"""What replaces removed pixels: the choices of `MaskBaseline`, ``random`` as in `Baseline`, or
``imputation``, the weighted mean of the neighbouring pixels plus noise (slow: about 1 second for
each image and mask)."""
_OFFSETS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
_OUTSIDE, _SHOWN = -2, -1  # marks in the padded table of indices of hidden pixels


def remover(run: Run, image: int, baseline: RemovalBaseline) -> Masker:
    """A masker that removes pixels of one of the run's images.

    Args:
        run: the run whose image is changed.
        image: index of the image in the run's batch.
        baseline: what replaces removed pixels.
    """
    if baseline == "random":
        return replacement_masker(run.x[image], baseline_images(baseline, run)[image])
    if baseline != "imputation":
        return make_masker(run, image, baseline)
    noise = NOISE * torch.randn(run.x[image].shape, generator=run.generator())
    return lambda shown: imputed(run.x[image], shown, noise)


def imputed(x: Tensor, shown: Tensor, noise: Tensor | float) -> Tensor:
    """Imputes the hidden pixels of an image once for each mask.

    Every hidden pixel becomes the weighted mean of its eight neighbours, which may be hidden too,
    plus noise. Each mask therefore gives one sparse system of linear equations. If a mask shows
    nothing, every pixel gets the mean colour of the image.

    Args:
        x: (C, H, W) the image in model units.
        shown: (n, H, W) True where the image is kept.
        noise: (C, H, W) added to hidden pixels, in model units; or 0.

    Returns:
        (n, C, H, W) in model units.
    """
    values, rows = x.detach().cpu().double().numpy(), []
    for mask in shown.cpu().numpy():
        row = torch.from_numpy(impute_without_noise(values, mask))
        hidden = torch.from_numpy(~mask)
        row += noise * hidden
        rows.append(row)
    return torch.stack(rows).to(x)


def impute_without_noise(x: Floats, shown: Mask) -> Floats:
    """Imputes the pixels of an image (C, H, W) that are not `shown` (H, W), without noise."""
    # Imported here because the import is slow and few callers need it.
    from scipy.sparse import csc_array  # type: ignore[import-untyped]
    from scipy.sparse.linalg import splu  # type: ignore[import-untyped]

    imputed_image, hidden = x.copy(), ~shown
    if not shown.any():
        imputed_image[:] = x.mean((1, 2), keepdims=True)
    elif hidden.any():
        solver = splu(csc_array(_coefficients(hidden)))
        imputed_image[:, hidden] = solver.solve(_right_hand_side(x, hidden)).T
    return imputed_image


def _hidden_indices(hidden: Mask) -> Indices:
    """Indices of the hidden pixels (H + 2, W + 2), `_SHOWN` elsewhere, `_OUTSIDE` in the border."""
    indices = np.full(hidden.shape, _SHOWN)
    indices[hidden] = np.arange(hidden.sum())
    return np.pad(indices, 1, constant_values=_OUTSIDE)


def _weight(y: int, x: int) -> float:
    return CORNER_WEIGHT if y and x else EDGE_WEIGHT


def _neighbour_at(padded: NDArray[Any], y: int, x: int) -> NDArray[Any]:
    """The neighbour of every pixel at the offset (y, x), from an array padded by 1."""
    height, width = padded.shape[-2] - 2, padded.shape[-1] - 2
    return padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width]


def _coefficients(hidden: Mask) -> tuple[Floats, tuple[Indices, Indices]]:
    """The sparse matrix of the linear system in the hidden pixels: weights, (rows, columns)."""
    numbers, count = _hidden_indices(hidden), int(hidden.sum())
    own = np.zeros(count)
    rows, columns, weights = [np.arange(count)], [np.arange(count)], [own]
    for offset in _OFFSETS:
        neighbour, weight = _neighbour_at(numbers, *offset)[hidden], _weight(*offset)
        own += weight * (neighbour != _OUTSIDE)
        among = np.flatnonzero(neighbour >= 0)
        rows.append(among)
        columns.append(neighbour[among])
        weights.append(np.full(len(among), -weight))
    return np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))


def _right_hand_side(x: Floats, hidden: Mask) -> Floats:
    """The right-hand side (n, C) of the linear system: weighted sums of shown neighbours."""
    numbers, padded = _hidden_indices(hidden), np.pad(x, ((0, 0), (1, 1), (1, 1)))
    total = np.zeros((int(hidden.sum()), len(x)))
    for offset in _OFFSETS:
        shown = _neighbour_at(numbers, *offset)[hidden] == _SHOWN
        total[shown] += _weight(*offset) * _neighbour_at(padded, *offset)[:, hidden].T[shown]
    return total

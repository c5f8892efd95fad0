"""What makes a raw map readable: where its colours begin and end, and smoothing.

Values are never changed. Everything here is about the picture of a map: the page, saved pictures
and notebooks take its range of colours and what is coloured from this file.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from core.views.colour import Limits, finite, is_signed
from core.views.colour import limits as exact_limits

FINE = 64 * 64
"""A map of more cells than this is taken to have a value for each pixel."""
CUT = 99
"""Per cent of the values of a fine map that lie within its range of colours."""
TRIM = 99.9
"""Per cent of a grainy map's values averaged as they are; larger ones count as the last such."""
ALIKE = 0.9
"""A fine map is grainy if the correlation of neighbouring values is below this."""
SHARE = 0.02
"""Radius of the smoothing as a share of the map's longer side."""
FLOOR = 0.25
"""Colours start at the lowest value, not at zero, if it is more than this share of the highest."""
FLAT = 1e-5
"""A map that varies by less than this share of its size is taken to be constant."""


def is_grainy(values: ArrayLike) -> bool:
    """Whether a map (h, w) has a value for each pixel that says little about the next pixel.

    Gradients are like that, and look like grey dust if drawn as they are. Maps of tiles, segments
    or masks, and layers' maps in input pixels, are not.

    >>> noise = np.random.default_rng(0).random((100, 100))
    >>> is_grainy(noise), is_grainy(noise[:7, :7]), is_grainy(noise.cumsum(0).cumsum(1))
    (True, False, False)
    """
    array = finite(values)
    if array.ndim != 2 or array.size <= FINE:
        return False
    # A few extreme values would decide alone.
    level = array.clip(*np.percentile(array, [100 - CUT, CUT])).astype(np.float64)
    level -= level.mean()
    power = float((level**2).mean())
    if power <= (FLAT * float(abs(array).max())) ** 2:
        return False
    across = float((level[:, 1:] * level[:, :-1]).mean())
    down = float((level[1:] * level[:-1]).mean())
    return (across + down) / 2 < ALIKE * power


def smoothing_radius(values: ArrayLike) -> int:
    """The radius in the map's pixels at which a map (h, w) is smoothed for display; 0 for none.

    It is the standard deviation of the Gaussian that weighs each pixel's surroundings: 2% of the
    map's longer side, at least 1.

    >>> smoothing_radius(np.random.default_rng(0).random((224, 224))), smoothing_radius([[1, 2]])
    (4, 0)
    """
    array = finite(values)
    return max(1, round(SHARE * max(array.shape))) if is_grainy(array) else 0


def drawn(values: ArrayLike, smooth: bool = True) -> NDArray[np.float32]:
    """What is coloured of a map (h, w): local means of a grainy map, otherwise its own values.

    The largest 0.1% of a grainy map's values, and the smallest, are averaged as if they were the
    next ones: a single extreme pixel would outweigh all of its surroundings.

    Args:
        values: the raw map.
        smooth: False for its own values in any case.
    """
    array = finite(values)
    radius = smoothing_radius(array) if smooth else 0
    if not radius:
        return array
    trimmed = array.clip(*np.percentile(array, [100 - TRIM, TRIM]).astype(np.float32))
    means: NDArray[np.float32] = gaussian_filter(trimmed, radius, mode="nearest")
    return means


def smoothing_text(values: ArrayLike) -> str:
    """How a map is smoothed for display, as words; empty if it is not.

    >>> smoothing_text(np.random.default_rng(0).random((224, 224)))
    'shown smoothed, radius 4 px'
    """
    radius = smoothing_radius(values)
    return f"shown smoothed, radius {radius} px" if radius else ""


def display_limits(*maps: ArrayLike, smooth: bool = True) -> Limits:
    """The range of colours (low, high) in which one map is drawn, or several maps together.

    A map with both signs has a symmetric range, so that zero has the middle colour. Any other
    range starts at zero, or at the lowest value where that is more than a quarter of the highest:
    such a map, like that of RISE, would otherwise be of almost one colour.

    A fine map has few extreme values, beside which all others would look alike: its colours end at
    the 99th percentile (and start at the first, if not at zero), and what lies beyond has the end
    colours. A map of zeros has no say in a range that it shares.

    Args:
        maps: raw maps on their own grids.
        smooth: whether grainy maps are drawn smoothed, see `drawn`.

    Raises:
        TimmscopeError: a value is not finite.

    >>> display_limits([[0.0, 1.0]], [[-3.0, 2.0]])
    (-3.0, 3.0)
    >>> display_limits([[3.0, 4.0]]), display_limits([[0.5, 4.0]])
    ((3.0, 4.0), (0.0, 4.0))
    """
    arrays = [finite(values) for values in maps]
    told = [values for values in arrays if values.any()] or arrays
    lows, highs = zip(*(_ends(values, smooth) for values in told), strict=True)
    return _range(min(lows), max(highs))


def _ends(values: NDArray[np.float32], smooth: bool) -> Limits:
    """The lowest and the highest value of a map that have a colour of their own."""
    cut = CUT if values.size > FINE else 100
    shown = drawn(values, smooth)
    if not is_signed(values):
        return _outer(shown, cut)
    if not is_signed(-values):
        low, high = _outer(-shown, cut)
        return -high, -low
    return exact_limits(shown, signed=True, percentile=cut)


def _outer(magnitudes: NDArray[np.float32], cut: float) -> Limits:
    """The ends of a map without negative values."""
    high = exact_limits(magnitudes, signed=False, percentile=cut)[1]
    low = float(np.percentile(magnitudes, 100 - cut)) if magnitudes.size else 0.0
    return min(max(low, 0.0), high), high


def _range(low: float, high: float) -> Limits:
    """The range of colours for values from `low` to `high`."""
    near, far = sorted((abs(low), abs(high)))
    if low < 0 < high:
        return -far, far
    if near > FLOOR * far and far - near > FLAT * far:
        return low, high
    return (0.0, far) if high > 0 else (-far, far)


def cut_of(values: ArrayLike, percent: float) -> float:
    """The size that the strongest per cent of a map's values reach; 0 for all of them.

    >>> cut_of([[-4.0, 3.0], [2.0, 1.0]], 50), cut_of([[1.0]], 100), cut_of([[1.0]], 0)
    (3.0, 0.0, inf)
    """
    sizes = np.sort(np.abs(np.asarray(values)), axis=None)
    kept = round(percent / 100 * sizes.size)
    if percent >= 100:
        return 0.0
    return float(sizes[-kept]) if kept else math.inf

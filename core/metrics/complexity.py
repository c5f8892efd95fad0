"""How simple a map is, whatever it marks: few pixels are easier to read than many."""

from __future__ import annotations

import torch
from torch import Tensor

from core.metrics.base import Category, Metric, MetricContext, check, register
from core.runtime.run import Run
from core.types import Score


@register(
    "complexity",
    label="Complexity",
    about="Is the map spread over many pixels? A simple map may still be wrong.",
    category=Category.COMPLEXITY,
    higher_is_better=False,
    range=(0.0, float("inf")),
    paper="arXiv:2005.00631",
)
class Complexity(Metric):
    """Entropy, in nats, of the pixels' shares of the sum of absolute values (Bhatt et al., 2020).

    Largest for a map of equal values, zeros included: the logarithm of the number of pixels.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        return self.score(run, entropy(values))


@register(
    "sparseness",
    label="Sparseness",
    about="Do few pixels hold most of the map? A simple map may still be wrong.",
    category=Category.COMPLEXITY,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:1810.06583",
)
class Sparseness(Metric):
    """Gini index of the map's absolute values (Chalasani et al., 2020).

    0 if all pixels are equal, zeros included; close to 1 if one pixel holds everything.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        return self.score(run, gini(values))


def entropy(values: Tensor) -> Tensor:
    """(B,) the entropy in nats of the pixels' shares of each map (B, H, W).

    >>> entropy(torch.tensor([[[0.0, 2.0]], [[-1.0, 1.0]], [[0.0, 0.0]]]))
    tensor([0.0000, 0.6931, 0.6931])
    """
    shares = _shares(values)
    found: Tensor = 0.0 - torch.special.xlogy(shares, shares).sum(1)
    return found.float()


def gini(values: Tensor) -> Tensor:
    """(B,) the Gini index, 0 to 1, of the absolute values of each map (B, H, W).

    >>> gini(torch.tensor([[[0.0, 0.0, 0.0, 5.0]], [[1.0, -1.0, 1.0, 1.0]]]))
    tensor([0.7500, 0.0000])
    """
    shares = _shares(values).sort(dim=1).values
    count = shares.shape[1]
    places = 2 * torch.arange(1, count + 1, dtype=shares.dtype) - count - 1
    found: Tensor = (shares * places).sum(1) / count
    return found.clamp_min(0).float()


def _shares(values: Tensor) -> Tensor:
    """(B, H*W) of the sum of absolute values; equal shares where it is zero."""
    sizes = values.flatten(1).double().abs()
    total = sizes.sum(1, keepdim=True)
    return torch.where(total > 0, sizes / total, 1 / sizes.shape[1])

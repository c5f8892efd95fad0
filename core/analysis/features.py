"""Feature maps: the activations of a layer's channels on one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.errors import NotApplicableError, TimmscopeError
from core.methods.attention import query_attention
from core.result import Result
from core.runtime.run import Run

Order = Literal["activation", "variance"]

INACTIVE_SHARE = 0.01
"""An activation below this share of the layer's largest absolute activation counts as inactive."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FeatureMaps(Result):
    """The strongest channels of one layer on one picture.

    Attributes:
        layer: the layer's name.
        maps: (n, h, w) raw activations, strongest channel first.
        channels: (n,) the indices of the channels.
        mean: mean activation of the whole layer.
        std: standard deviation of the whole layer.
        sparsity: share of inactive values, from 0 to 1. A value is inactive if its absolute value
            is below 1 % of the layer's largest.
        active: number of channels with at least one active value.
        total: number of channels.
    """

    layer: str
    maps: Tensor
    channels: Tensor
    mean: float
    std: float
    sparsity: float
    active: int
    total: int


def feature_maps(run: Run, top: int = 16, by: Order = "activation") -> FeatureMaps:
    """The `top` channels of the run's layer on its first image.

    Args:
        run: its layer must lie on a spatial grid.
        top: how many channels; all if there are fewer.
        by: "activation" ranks by mean absolute activation, "variance" by spatial variance.

    Raises:
        TimmscopeError: `top` is below 1.
    """
    if top < 1:
        raise TimmscopeError(f"top is {top}; give 1 or more channels")
    act = run.activation()[0].float()
    size = act.abs()
    strength = size.mean((1, 2)) if by == "activation" else act.var((1, 2), correction=0)
    channels = strength.argsort(descending=True, stable=True)[:top]
    floor = INACTIVE_SHARE * size.max()
    return FeatureMaps(
        layer=str(run.layer),
        maps=act[channels].cpu(),
        channels=channels.cpu(),
        mean=float(act.mean()),
        std=float(act.std(correction=0)),
        sparsity=float((size < floor).float().mean()) if floor > 0 else 1.0,
        active=int((size.amax((1, 2)) >= floor).sum()) if floor > 0 else 0,
        total=len(act),
    )


def attention_heads(run: Run, query: str = "auto") -> Tensor:
    """The attention map of every head of the run's layer, on its first image.

    Args:
        run: its layer must compute attention that can be mapped to the picture.
        query: the query token; see the `attention` method.

    Returns:
        (heads, h, w) weights from 0 to 1, on the CPU.

    Raises:
        UnknownNameError: there is no such query token.
        NotApplicableError: the layer's attention cannot be mapped to the picture.
    """
    layer = run.subject.attention_layers.get(run.layer or "")
    if layer is None or layer.layout is None:
        raise NotApplicableError(
            f"layer {run.layer!r} of {run.subject.name} has no attention that can be mapped to the "
            "picture; choose an attention layer"
        )
    heads = run.attention()[layer.name][0]
    return torch.stack([query_attention(h[None], query, layer)[0] for h in heads]).float().cpu()

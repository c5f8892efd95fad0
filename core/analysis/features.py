"""Feature maps: what the channels of a layer respond to in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.errors import NotApplicableError, TimmscopeError
from core.methods.attention import attention_from
from core.runtime.run import Run

Order = Literal["activation", "variance"]

FAINT = 0.01
"""What is smaller than this share of the largest counts as silent."""


@dataclass(frozen=True, slots=True)
class FeatureMaps:
    """The channels of one layer that stand out on one picture.

    Attributes:
        layer: the layer's name.
        maps: (n, h, w) raw activations, the most striking channel first.
        channels: (n,) the channels' indices.
        mean: mean activation of the whole layer.
        std: standard deviation over the whole layer.
        sparsity: share of activations smaller in size than 1% of the layer's largest.
        active: number of channels whose largest activation is no smaller in size than that.
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
        by: "activation" ranks by mean size, "variance" by spatial variance.

    Raises:
        TimmscopeError: `top` is below 1.
    """
    if top < 1:
        raise TimmscopeError(f"top is {top}; ask for 1 channel or more")
    act = run.activation()[0].float()
    size = act.abs()
    strength = size.mean((1, 2)) if by == "activation" else act.var((1, 2), correction=0)
    channels = strength.argsort(descending=True, stable=True)[:top]
    floor = FAINT * size.max()
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
    """(heads, h, w) attention of every head of the run's layer on its first image.

    Args:
        run: its layer must compute attention that lies on the picture.
        query: who looks; see the `attention` method.

    Raises:
        UnknownNameError: there is no such query token.
    """
    layer = run.subject.attention_layers.get(run.layer or "")
    if layer is None or layer.layout is None:
        raise NotApplicableError(f"{run.subject.name} has no attention that lies on the picture")
    heads = run.attention()[layer.name][0]
    return torch.stack([attention_from(h[None], query, layer)[0] for h in heads]).float().cpu()

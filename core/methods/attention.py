"""Attention maps of a transformer, of one layer or rolled out over all layers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from core.errors import NotApplicableError, UnknownNameError
from core.methods.base import Method, register
from core.methods.outliers import MaskOutliers, outlying, report_outliers, without
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import AttentionLayer, Cost, Layout, Need

Query = Field(
    "auto",
    pattern=r"^(auto|class|mean|\d{1,6})$",
    title="Query token",
    description="Whose attention is shown: class (the class token), mean (the mean of all "
    "patches), the number of a patch counted from 0 row by row, or auto (class if the model has a "
    "class token, else mean)",
)


@register(
    "attention",
    label="Attention",
    family="attention",
    about="Best for inspecting one head of one layer; not for explaining a class.",
    paper="arXiv:1706.03762",
    needs=[Need.ATTENTION],
)
class Attention(Method):
    """Attention weights from one query token to every patch.

    The map does not depend on the target. Windowed attention is mapped back to the picture:
    patches outside the window of the query get 0. The weight of a pooled key is split evenly among
    the patches it was pooled from.

    Some patches draw the attention of all tokens, whatever they show. Their number stands in
    ``extras["outlying_tokens"]``; `mask_outliers` sets them to 0.
    """

    head: int = Field(
        -1,
        ge=-1,
        le=1024,
        description="Index of the attention head, from 0; -1 is the mean of all heads",
    )
    query: str = Query
    mask_outliers: bool = MaskOutliers

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        assert run.layer is not None
        maps, layer = run.attention()[run.layer], run.subject.attention_layers[run.layer]
        if self.head >= layer.heads:
            raise UnknownNameError(
                f"no head {self.head} in {run.layer}; choose a head from 0 to {layer.heads - 1}"
            )
        weights = maps.mean(1) if self.head < 0 else maps[:, self.head]
        values = query_attention(weights, self.query, layer)
        outliers = outlying(received_attention(weights, layer))
        report_outliers(run, values, outliers)
        return without(values, outliers) if self.mask_outliers else values, run.score()


@register(
    "attention_rollout",
    label="Attention rollout",
    family="attention",
    about="Best for how attention mixes patches over all layers; not for telling classes apart.",
    paper="arXiv:2005.00928",
    needs=[Need.ATTENTION],
)
class AttentionRollout(Method):
    """Product of attention and residual connections over all layers (Abnar & Zuidema, 2020).

    The map does not depend on the target. Only the row of the query token is propagated, from the
    last layer to the first.
    """

    fusion: Literal["mean", "max", "min"] = Field(
        "mean",
        title="Head fusion",
        description="How the heads of a layer are combined into one map",
    )
    discard: float = Field(
        0.0,
        ge=0,
        le=0.99,
        description="Share of the weakest attention weights set to 0 in each layer, from 0 to 0.99",
    )
    query: str = Query

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads every layer

    def refusal(self, subject: Subject) -> str:
        return why_not_traceable(subject, "rollout")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        maps, layers = run.attention(), run.subject.attention_layers
        layout = token_layout(run.subject)
        row = query_weights(self.query, layout).to(run.x).expand(len(run.x), -1)
        for name, weights in reversed(maps.items()):
            row = residual_step(row, self._fused(weights), layers[name])
        return patch_values(row, layout), run.score()

    def _fused(self, maps: Tensor) -> Tensor:
        fused = maps.mean(1) if self.fusion == "mean" else getattr(maps, f"a{self.fusion}")(1)
        return self._drop_weakest(fused)

    def _drop_weakest(self, fused: Tensor) -> Tensor:
        count = int(self.discard * fused[0].numel())
        if not count:
            return fused
        weakest = fused.flatten(1).topk(count, largest=False).indices
        return fused.flatten(1).scatter(1, weakest, 0.0).view_as(fused)


def residual_step(row: Tensor, weights: Tensor, layer: AttentionLayer) -> Tensor:
    """Propagates query weights (B, T) through one layer: row-normalised (attention + identity)."""
    row = row / (1 + layer.row_sums(weights))
    return row + layer.propagate(row, weights)


def received_attention(weights: Tensor, layer: AttentionLayer) -> Tensor:
    """(B, h, w) the attention that each patch receives from all tokens; arguments as below."""
    layout = layer.query_layout or layer.layout
    assert layout is not None
    assert layer.layout is not None
    even = weights.new_ones(len(weights), layout.tokens) / layout.tokens
    return patch_values(layer.propagate(even, weights), layer.layout)


def query_attention(weights: Tensor, query: str, layer: AttentionLayer) -> Tensor:
    """Attention from a query token to every patch.

    Args:
        weights: attention of one head or the mean of several, (B, T, T) or grouped (B, groups,
            queries, keys).
        query: the query token; see the `attention` method.
        layer: the layer that the weights come from.

    Returns:
        (B, h, w) weights from 0 to 1.

    Raises:
        UnknownNameError: there is no such token.
        NotApplicableError: the token attends to no patch in this layer.
    """
    assert layer.layout is not None
    row = query_weights(query, layer.query_layout or layer.layout)
    row = row.to(weights).expand(len(weights), -1)
    attended = patch_values(layer.propagate(row, weights), layer.layout)
    if not attended.flatten(1).any(1).all():
        raise NotApplicableError(
            f"the query token {query!r} attends to no patch in {layer.name!r}; choose another "
            "query or layer"
        )
    return attended


def query_weights(query: str, layout: Layout) -> Tensor:
    """Weights of the query tokens: 1 on one token, or spread evenly over all patches.

    Args:
        query: the query token; see the `attention` method.
        layout: the tokens of the layer.

    Returns:
        (1, T) float64, with sum 1.

    Raises:
        UnknownNameError: there is no such token.
    """
    cells = layout.tokens - layout.prefix
    if query == "auto":
        query = "class" if layout.class_token else "mean"
    if query == "class" and not layout.class_token:
        raise UnknownNameError(
            "no class token in this model; give 'mean' or the number of a patch as query"
        )
    numbered = query.isascii() and query.isdigit()
    if query not in ("class", "mean") and not (numbered and int(query) < cells):
        raise UnknownNameError(f"no patch {query[:20]!r}; patches are numbered 0 to {cells - 1}")
    weights = torch.zeros(1, layout.tokens, dtype=torch.float64)
    if query == "mean":
        weights[:, layout.prefix :] = 1 / cells
    else:
        weights[:, 0 if query == "class" else layout.prefix + int(query)] = 1
    return weights


def patch_values(row: Tensor, layout: Layout) -> Tensor:
    """The values of the patches (B, h, w) among those of all tokens (B, T)."""
    cells: Tensor = row[:, layout.prefix :].unflatten(1, layout.grid)
    return cells


def token_layout(subject: Subject) -> Layout:
    """The layout shared by all attention layers of a model; see `why_not_traceable`."""
    layout = next(iter(subject.attention_layers.values())).layout
    assert layout is not None
    return layout


def why_not_traceable(subject: Subject, what: str) -> str:
    """Why tokens cannot be traced through all attention layers; empty if they can.

    Args:
        subject: the model.
        what: the method, as the subject of the sentence.
    """
    layers = list(subject.attention_layers.values())
    unmapped = next((layer for layer in layers if layer.layout is None), None)
    if unmapped is not None:
        return (
            f"{what} follows tokens through all layers, but in {unmapped.name!r} {unmapped.reason}"
        )
    if len({_token_grid(layer.layout) for layer in layers}) > 1 or any(
        a.query_layout for a in layers
    ):
        return (
            f"{what} follows tokens through all layers, but {subject.name} changes their number "
            f"or order between {layers[0].name!r} and {layers[-1].name!r}; use attention"
        )
    return ""


def _token_grid(layout: Layout | None) -> tuple[tuple[int, int], int] | None:
    """Grid and number of prefix tokens: equal for layouts of the same tokens."""
    return None if layout is None else (layout.grid, layout.prefix)

"""What a transformer attends to."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from core.errors import NotApplicableError, UnknownNameError
from core.methods.base import Method, register
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import AttentionLayer, Cost, Layout, Need

Query = Field(
    "auto",
    pattern=r"^(auto|class|mean|\d{1,6})$",
    description="Who looks: class (the class token), mean (all patches), a patch's number counted "
    "row by row, or auto: class where there is one, else mean",
)


@register(
    "attention",
    label="Attention",
    family="attention",
    about="Best for where one head of one layer looks; not for what the model concludes from it.",
    paper="arXiv:1706.03762",
    needs=[Need.ATTENTION],
)
class Attention(Method):
    """Attention weights from one query token to every patch; the target plays no part.

    Attention in windows is put back onto the picture: nothing is seen outside the window of the
    patch that looks. A pooled key's weight is split among the patches it was pooled from.
    """

    head: int = Field(-1, ge=-1, le=1024, description="Which head; -1 is the mean of all")
    query: str = Query

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        assert run.layer is not None
        maps, layer = run.attention()[run.layer], run.subject.attention_layers[run.layer]
        if self.head >= layer.heads:
            raise UnknownNameError(
                f"no head {self.head} in {run.layer}; it has heads 0 to {layer.heads - 1}"
            )
        weights = maps.mean(1) if self.head < 0 else maps[:, self.head]
        return attention_from(weights, self.query, layer), run.score()


@register(
    "attention_rollout",
    label="Attention rollout",
    family="attention",
    about="Best for how attention mixes patches through all layers; not for telling classes apart.",
    paper="arXiv:2005.00928",
    needs=[Need.ATTENTION],
)
class AttentionRollout(Method):
    """Attention and the residual path, multiplied through all layers (Abnar & Zuidema, 2020).

    The target plays no part. Only the row of the token that looks is followed, from the last layer
    to the first.
    """

    fusion: Literal["mean", "max", "min"] = Field("mean", description="Heads to one")
    discard: float = Field(
        0.0, ge=0, le=0.99, description="Fraction of the weakest weights set to zero in each layer"
    )
    query: str = Query

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads every layer

    def refusal(self, subject: Subject) -> str:
        return not_one_stream(subject, "rollout")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        maps, layers = run.attention(), run.subject.attention_layers
        layout = one_layout(run.subject)
        row = held_by(self.query, layout).to(run.x).expand(len(run.x), -1)
        for name, weights in reversed(maps.items()):
            row = residual_step(row, self._fused(weights), layers[name])
        return on_grid(row, layout), run.score()

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
    """A row (B, T) handed on by attention and the residual path; each token's shares sum to one."""
    row = row / (1 + layer.row_sums(weights))
    return row + layer.propagate(row, weights)


def attention_from(weights: Tensor, query: str, layer: AttentionLayer) -> Tensor:
    """What a query token sees (B, h, w), of one head's maps or a mean of heads.

    Args:
        weights: (B, T, T) or grouped (B, groups, queries, keys).
        query: who looks; see the `attention` method.
        layer: where the maps come from.

    Raises:
        UnknownNameError: there is no such token.
        NotApplicableError: it does not look in this layer.
    """
    assert layer.layout is not None
    row = held_by(query, layer.query_layout or layer.layout).to(weights).expand(len(weights), -1)
    seen = on_grid(layer.propagate(row, weights), layer.layout)
    if not seen.flatten(1).any(1).all():
        raise NotApplicableError(
            f"in {layer.name!r} the query token {query!r} looks at no patch; choose another query "
            "or layer"
        )
    return seen


def held_by(query: str, layout: Layout) -> Tensor:
    """(1, T) one unit, in the hands of the token that looks or shared by all patches.

    Raises:
        UnknownNameError: there is no such token.
    """
    cells = layout.tokens - layout.prefix
    if query == "auto":
        query = "class" if layout.class_token else "mean"
    if query == "class" and not layout.class_token:
        raise UnknownNameError("no class token in this model; look from 'mean' or a patch's number")
    numbered = query.isascii() and query.isdigit()
    if query not in ("class", "mean") and not (numbered and int(query) < cells):
        raise UnknownNameError(f"no patch {query[:20]!r}; patches are numbered 0 to {cells - 1}")
    held = torch.zeros(1, layout.tokens, dtype=torch.float64)
    if query == "mean":
        held[:, layout.prefix :] = 1 / cells
    else:
        held[:, 0 if query == "class" else layout.prefix + int(query)] = 1
    return held


def on_grid(row: Tensor, layout: Layout) -> Tensor:
    """What the patches have (B, h, w) of a row (B, T) over all tokens."""
    cells: Tensor = row[:, layout.prefix :].unflatten(1, layout.grid)
    return cells


def one_layout(subject: Subject) -> Layout:
    """How tokens lie on the picture in every attention layer of a model that keeps them."""
    layout = next(iter(subject.attention_layers.values())).layout
    assert layout is not None
    return layout


def not_one_stream(subject: Subject, what: str) -> str:
    """Why tokens cannot be followed through all attention layers; empty if they can."""
    layers = list(subject.attention_layers.values())
    odd = next((layer for layer in layers if layer.layout is None), None)
    if odd is not None:
        return f"{what} follows tokens through all layers, and in {odd.name!r} {odd.reason}"
    if len({on_tokens(layer.layout) for layer in layers}) > 1 or any(
        a.query_layout for a in layers
    ):
        return (
            f"{what} follows tokens through all layers, and {subject.name} changes them between "
            f"{layers[0].name!r} and {layers[-1].name!r}; use attention"
        )
    return ""


def on_tokens(layout: Layout | None) -> tuple[tuple[int, int], int] | None:
    """What two layouts share when the same tokens lie there, whatever the number of channels."""
    return None if layout is None else (layout.grid, layout.prefix)

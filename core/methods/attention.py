"""What a transformer attends to."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from core.engine import Run, Subject
from core.errors import UnknownNameError
from core.methods.base import Method, register
from core.types import Layout, Need

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
    """Attention weights from one query token to every patch; the target plays no part."""

    head: int = Field(-1, ge=-1, le=1024, description="Which head; -1 is the mean of all")
    query: str = Query

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        assert run.layer is not None
        maps, layer = run.attention()[run.layer], run.subject.attention_layers[run.layer]
        if self.head >= layer.heads:
            raise UnknownNameError(
                f"no head {self.head} in {run.layer}; it has heads 0 to {layer.heads - 1}"
            )
        weights = maps.mean(1) if self.head < 0 else maps[:, self.head]
        assert layer.layout is not None
        return look_from(weights, self.query, layer.layout), run.score()


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

    The target plays no part.
    """

    fusion: Literal["mean", "max", "min"] = Field("mean", description="Heads to one")
    discard: float = Field(
        0.0, ge=0, le=0.99, description="Fraction of the weakest weights set to zero in each layer"
    )
    query: str = Query

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads every layer

    def refusal(self, subject: Subject) -> str:
        layers = list(subject.attention_layers.values())
        odd = next((layer for layer in layers if layer.layout is None), None)
        if odd is not None:
            return f"rollout follows tokens through all layers, and in {odd.name!r} {odd.reason}"
        if len({layer.layout for layer in layers}) > 1:
            return (
                f"rollout follows tokens through all layers, and {subject.name} changes them "
                f"between {layers[0].name!r} and {layers[-1].name!r}; use attention"
            )
        return ""

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        flow: Tensor | None = None
        for maps in run.attention().values():
            fused = maps.mean(1) if self.fusion == "mean" else getattr(maps, f"a{self.fusion}")(1)
            fused = self._drop_weakest(fused)
            mixed = fused + torch.eye(fused.shape[-1], device=fused.device, dtype=fused.dtype)
            mixed = mixed / mixed.sum(-1, keepdim=True)
            flow = mixed if flow is None else mixed @ flow
        assert flow is not None
        layout = next(iter(run.subject.attention_layers.values())).layout
        assert layout is not None
        return look_from(flow, self.query, layout), run.score()

    def _drop_weakest(self, fused: Tensor) -> Tensor:
        count = int(self.discard * fused[0].numel())
        if not count:
            return fused
        weakest = fused.flatten(1).topk(count, largest=False).indices
        return fused.flatten(1).scatter(1, weakest, 0.0).view_as(fused)


def look_from(weights: Tensor, query: str, layout: Layout) -> Tensor:
    """The row (B, h, w) of attention weights (B, T, T) that a query token sees.

    Raises:
        UnknownNameError: there is no such token.
    """
    cells, prefix = layout.grid[0] * layout.grid[1], layout.prefix
    if query == "auto":
        query = "class" if layout.class_token else "mean"
    if query == "class" and not layout.class_token:
        raise UnknownNameError("no class token in this model; look from 'mean' or a patch's number")
    numbered = query.isascii() and query.isdigit()
    if query not in ("class", "mean") and not (numbered and int(query) < cells):
        raise UnknownNameError(f"no patch {query[:20]!r}; patches are numbered 0 to {cells - 1}")
    seen = weights[:, :, prefix:]
    if query == "class":
        row = seen[:, 0]
    elif query == "mean":
        row = seen[:, prefix:].mean(1)
    else:
        row = seen[:, prefix + int(query)]
    on_grid: Tensor = row.unflatten(1, layout.grid)
    return on_grid

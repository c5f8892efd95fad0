"""The attention maps of all layers, and the gradients of the score with respect to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.errors import NotApplicableError
from core.runtime.attention_capture import (
    as_graph_leaf,
    attention_map_gradients,
    record_attention,
)
from core.runtime.subject import Subject
from core.tasks.outputs import Outputs, joined
from core.types import grouped

if TYPE_CHECKING:
    from core.runtime.run import Run


@dataclass(frozen=True, slots=True)
class AttentionGradients:
    """What one backward pass to all attention maps gives.

    Attributes:
        score: (B,) the explained score.
        attn: the maps by layer name, in order of execution; shapes as in `Run.attention`.
        grad: the gradients of the score by layer name, of the same shapes.
    """

    score: Tensor
    attn: dict[str, Tensor]
    grad: dict[str, Tensor]


def attention(run: Run) -> dict[str, Tensor]:
    """See `Run.attention`."""

    def step(rows: Tensor, _owner: Tensor) -> tuple[Outputs, dict[str, Tensor]]:
        with torch.no_grad(), record_attention(run.subject.model) as maps:
            outputs = run.forward(rows)
        return outputs, maps_on_picture(run.subject, maps, len(rows))

    def compute() -> dict[str, Tensor]:
        outputs, maps = zip(*run.pass_over_images(step), strict=True)
        run.cache_scope.put("outputs", joined(outputs))
        return _joined(maps)

    return run.cache_scope.get_or_compute("attention", compute)


def attention_gradients(run: Run) -> AttentionGradients:
    """See `Run.attention_gradients`."""
    subject = run.subject

    def step(
        rows: Tensor, owner: Tensor
    ) -> tuple[Outputs, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        with record_attention(subject.model, as_graph_leaf) as maps:
            outputs = run.forward(rows)
        score = run.score_of(outputs, owner)
        grads = attention_map_gradients(score.sum(), maps, name=subject.name)
        if not grads:
            raise NotApplicableError(
                f"the score of {subject.name} has no gradient with respect to its attention; use "
                "attention_rollout"
            )
        kept = {name: weights.detach() for name, weights in maps.items()}
        attn, grad = (maps_on_picture(subject, found, len(rows)) for found in (kept, grads))
        return outputs.detach(), score.detach(), attn, grad

    def compute() -> AttentionGradients:
        outputs, score, attn, grad = zip(*run.pass_over_images(step, backward=True), strict=True)
        run.cache_scope.put("outputs", joined(outputs))
        return AttentionGradients(torch.cat(score), _joined(attn), _joined(grad))

    return run.cache_scope.get_or_compute(("attention gradients", run.asked), compute)


def maps_on_picture(subject: Subject, maps: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """See `Run.attention_maps`."""
    return {
        layer.name: maps[layer.name]
        if layer.keys is None
        else grouped(maps[layer.name], images, layer.axis)
        for layer in subject.attention_layers.values()
        if layer.layout is not None and layer.name in maps
    }


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, of all passes."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

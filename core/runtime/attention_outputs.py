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
from core.runtime.extra_targets import (
    count_for_others,
    count_own,
    score_functions,
    scores_of_each,
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
    """See `Run.attention_gradients`; what is found for extra targets is kept for later runs."""
    subject, scope, asked = run.subject, run.cache_scope, run.asked

    def compute() -> AttentionGradients:
        functions = {
            key: one
            for key, one in score_functions(run).items()
            if ("attention gradients", key) not in scope
        }

        def step(rows: Tensor, owner: Tensor) -> tuple[Outputs, dict[str, AttentionGradients]]:
            with record_attention(subject.model, as_graph_leaf) as maps:
                outputs = run.forward(rows)
            kept = {name: weights.detach() for name, weights in maps.items()}
            attn = maps_on_picture(subject, kept, len(rows))
            found = {}
            for key, score, more in scores_of_each(functions, outputs, owner):
                grads = attention_map_gradients(
                    score.sum(), maps, name=subject.name, retain_graph=more
                )
                if not grads:
                    raise _no_gradient(subject)
                grad = maps_on_picture(subject, grads, len(rows))
                found[key] = AttentionGradients(score.detach(), attn, grad)
            return outputs.detach(), found

        outputs, passes = zip(*run.pass_over_images(step, backward=True), strict=True)
        scope.put("outputs", joined(outputs))
        found = {key: _joined_gradients([one[key] for one in passes]) for key in functions}
        for key, one in found.items():
            scope.put(("attention gradients", key), one)
        count_for_others(run, found)
        return found[asked]

    gradients = scope.get_or_compute(("attention gradients", asked), compute)
    count_own(run)
    return gradients


def _no_gradient(subject: Subject) -> NotApplicableError:
    return NotApplicableError(
        f"the score of {subject.name} has no gradient with respect to its attention; use "
        "attention_rollout"
    )


def _joined_gradients(parts: Sequence[AttentionGradients]) -> AttentionGradients:
    """What all passes gave for one target."""
    return AttentionGradients(
        torch.cat([one.score for one in parts]),
        _joined([one.attn for one in parts]),
        _joined([one.grad for one in parts]),
    )


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

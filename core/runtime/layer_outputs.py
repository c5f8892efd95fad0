"""The output of a layer, and the gradient of the score with respect to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.errors import NotApplicableError
from core.runtime.capture import record_layers
from core.runtime.model_call import differentiate
from core.runtime.subject import Subject
from core.tasks.outputs import Outputs, joined

if TYPE_CHECKING:
    from core.runtime.run import Run


@dataclass(frozen=True, slots=True)
class LayerGradients:
    """What one backward pass to a layer gives.

    Attributes:
        score: (B,) the explained score.
        act: (B, K, h, w) the layer's output, prefix tokens left out.
        grad: (B, K, h, w) the gradient of the score with respect to it.
    """

    score: Tensor
    act: Tensor
    grad: Tensor

    @property
    def slopes(self) -> Tensor:
        """(B, K) the derivative of the score with respect to a factor on each channel."""
        return (self.grad * self.act).sum((2, 3))


def layer_gradients(run: Run) -> LayerGradients:
    """See `Run.layer_gradients`; what is found for extra layers is kept for later runs."""
    layer, asked, scope = _spatial_layer(run), run.asked, run.cache_scope

    def compute() -> LayerGradients:
        wanted = dict.fromkeys([layer, *run.extra_layers])
        found = _differentiate(run, [n for n in wanted if ("layer", asked, n) not in scope])
        for name in run.extra_layers:
            if name in found:
                scope.put(("layer", asked, name), found[name])
        return found[layer]

    return scope.get_or_compute(("layer", asked, layer), compute)


def activation(run: Run) -> Tensor:
    """See `Run.activation`."""
    name = _spatial_layer(run)
    return run.cache_scope.get_or_compute(
        ("activation", name), lambda: _recorded(run, [name])[name]
    )


def activations(run: Run, names: Sequence[str]) -> dict[str, Tensor]:
    """See `Run.activations`."""
    return run.cache_scope.get_or_compute(
        ("activations", *names), lambda: _recorded(run, list(names))
    )


def _recorded(run: Run, names: list[str]) -> dict[str, Tensor]:
    """The outputs of layers by name, from one forward pass."""
    subject = run.subject

    def step(rows: Tensor, _owner: Tensor) -> tuple[Outputs, list[Tensor]]:
        with torch.no_grad(), record_layers(subject.model, names, _calls(subject)) as recorded:
            outputs = run.forward(rows)
        for name in names:
            if name not in recorded:
                raise _takes_no_part(name, subject)
        return outputs, [recorded[name].detach() for name in names]

    outputs, acts = zip(*run.pass_over_images(step), strict=True)
    run.cache_scope.put("outputs", joined(outputs))
    return {
        name: _on_grid(name, torch.cat(parts), subject)
        for name, parts in zip(names, zip(*acts, strict=True), strict=True)
    }


def _differentiate(run: Run, names: Sequence[str]) -> dict[str, LayerGradients]:
    """Score, activation and gradient at several layers, from one forward and one backward pass."""
    subject = run.subject

    def step(rows: Tensor, owner: Tensor) -> tuple[Outputs, Tensor, list[Tensor], list[Tensor]]:
        with record_layers(subject.model, names, _calls(subject)) as recorded:
            outputs = run.forward(rows)
        absent = [name for name in names if name not in recorded or not outputs.requires_grad]
        if absent:
            raise _takes_no_part(absent[0], subject)
        score = run.score_of(outputs, owner)
        kept = [recorded[name] for name in names]
        found = differentiate(
            score.sum(), kept, name=subject.name, allow_unused=True, materialize_grads=True
        )
        return outputs.detach(), score.detach(), [act.detach() for act in kept], list(found)

    passes = run.pass_over_images(step, backward=True)
    run.cache_scope.put("outputs", joined([outputs for outputs, *_ in passes]))
    score = torch.cat([score for _, score, *_ in passes])
    return {
        name: LayerGradients(
            score,
            _on_grid(name, torch.cat([acts[i] for _, _, acts, _ in passes]), subject),
            _on_grid(name, torch.cat([grads[i] for _, _, _, grads in passes]), subject),
        )
        for i, name in enumerate(names)
    }


def _spatial_layer(run: Run) -> str:
    if run.layer is None:
        raise NotApplicableError(f"{run.subject.name} has no layer that lies on a spatial grid")
    return run.layer


def _calls(subject: Subject) -> dict[str, int]:
    """By name, the call that a layer's output is taken of."""
    return {name: layer.call for name, layer in subject.layers.items()}


def _takes_no_part(name: str, subject: Subject) -> NotApplicableError:
    return NotApplicableError(
        f"layer {name!r} takes no part in what {subject.name} predicts; choose another layer"
    )


def _on_grid(name: str, output: Tensor, subject: Subject) -> Tensor:
    """A layer's output as (B, K, h, w)."""
    layout = subject.layers[name].layout
    if layout is None:
        raise NotApplicableError(
            f"layer {name!r} of {subject.name} does not lie on a spatial grid; choose another layer"
        )
    return layout.to_nchw(output)

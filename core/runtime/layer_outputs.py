"""The output of a layer, and the gradient of the score with respect to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.errors import NotApplicableError
from core.runtime.capture import record_layers
from core.runtime.extra_targets import (
    count_for_others,
    count_own,
    score_functions,
    scores_of_each,
)
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
    """See `Run.layer_gradients`; what is found for extra layers and targets is kept for later."""
    layer, asked, scope = _spatial_layer(run), run.asked, run.cache_scope

    def compute() -> LayerGradients:
        names = dict.fromkeys([layer, *run.extra_layers])
        missing = {
            key: [name for name in names if ("layer", key, name) not in scope]
            for key in score_functions(run)
        }
        found = _differentiate(run, {key: at for key, at in missing.items() if at})
        for key, at_layers in found.items():
            for name, one in at_layers.items():
                scope.put(("layer", key, name), one)
        count_for_others(run, found)
        return found[asked][layer]

    gradients = scope.get_or_compute(("layer", asked, layer), compute)
    count_own(run)
    return gradients


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


def _differentiate(
    run: Run, wanted: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, LayerGradients]]:
    """Score, activation and gradient from one forward pass, and a backward pass for each target.

    Args:
        run: the run.
        wanted: the layers, by the key of each of the run's targets.

    Returns:
        By target, what is found at each of its layers.
    """
    subject = run.subject
    names = list(dict.fromkeys(name for at in wanted.values() for name in at))
    functions = {key: one for key, one in score_functions(run).items() if key in wanted}

    def step(rows: Tensor, owner: Tensor) -> _Pass:
        with record_layers(subject.model, names, _calls(subject)) as recorded:
            outputs = run.forward(rows)
        absent = [name for name in names if name not in recorded or not outputs.requires_grad]
        if absent:
            raise _takes_no_part(absent[0], subject)
        found = _Pass(outputs.detach(), {name: recorded[name].detach() for name in names})
        for key, score, more in scores_of_each(functions, outputs, owner):
            found.scores[key] = score.detach()
            kept = [recorded[name] for name in wanted[key]]
            grads = differentiate(
                score.sum(), kept, name=subject.name, allow_unused=True, materialize_grads=True,
                retain_graph=more,
            )  # fmt: skip
            found.grads[key] = dict(zip(wanted[key], grads, strict=True))
        return found

    passes = run.pass_over_images(step, backward=True)
    run.cache_scope.put("outputs", joined([one.outputs for one in passes]))
    acts = {
        name: _on_grid(name, torch.cat([one.acts[name] for one in passes]), subject)
        for name in names
    }

    def at_layer(key: str, name: str) -> LayerGradients:
        grad = torch.cat([one.grads[key][name] for one in passes])
        score = torch.cat([one.scores[key] for one in passes])
        return LayerGradients(score, acts[name], _on_grid(name, grad, subject))

    return {key: {name: at_layer(key, name) for name in at} for key, at in wanted.items()}


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one pass gave.

    Attributes:
        outputs: the model's.
        acts: the outputs of layers by name.
        scores: (n,) by target.
        grads: by target, the gradient at each layer.
    """

    outputs: Outputs
    acts: dict[str, Tensor]
    scores: dict[str, Tensor] = field(default_factory=dict)
    grads: dict[str, dict[str, Tensor]] = field(default_factory=dict)


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

"""What a transformer attends to, weighted by what the target's gradient says of it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from core.errors import NotApplicableError
from core.methods.attention import held_by, not_one_stream, on_grid, one_layout
from core.methods.base import Method, register
from core.runtime.attention_capture import as_graph_leaf, record_attention
from core.runtime.capture import record_and_detach
from core.runtime.model_call import call_model, differentiate
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


@register(
    "transformer_relevance",
    label="Transformer relevance",
    family="attention",
    about="Best for which patches a transformer's class rests on; not for evidence against.",
    paper="arXiv:2103.15679",
    needs=[Need.ATTENTION, Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE],
)
class TransformerRelevance(Method):
    """Attention times positive gradient, gathered over all layers (Chefer et al., 2021).

    From the first layer to the last, relevance R becomes R + mean over heads of relu(gradient *
    attention) R. Only the rows that are read out at the end are followed, from the last layer to
    the first, and the identity that R begins with is left out.
    """

    query: str = Field(
        "auto",
        pattern=r"^(auto|class|mean|\d{1,6})$",
        description="Whose relevance: class (the class token), mean (all patches), a patch's "
        "number, or auto: the tokens that the score is read from, in equal parts",
    )

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads every layer

    def refusal(self, subject: Subject) -> str:
        return not_one_stream(subject, "relevance")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        found, layers = run.attention_gradients(), run.subject.attention_layers
        layout = one_layout(run.subject)
        last = next(reversed(found.grad))
        if self.query == "auto":
            slopes = found.grad[last].abs().sum(1)
            row = (layers[last].row_sums(slopes) > 0).to(run.x)
            row = row / row.sum(1, keepdim=True).clamp_min(1)
        else:
            row = held_by(self.query, layout).to(run.x).expand(len(run.x), -1)
        gathered = torch.zeros_like(row)
        for name, attn in reversed(found.attn.items()):
            weights = (found.grad[name] * attn).relu().mean(1)
            gathered = gathered + layers[name].propagate(row + gathered, weights)
        return on_grid(gathered, layout), found.score


@register(
    "legrad",
    label="LeGrad",
    family="attention",
    about="Best for where more attention would raise the class; not proven to find the evidence.",
    paper="arXiv:2404.03214",
    needs=[Need.ATTENTION, Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.NONNEGATIVE],
)
class LeGrad(Method):
    """How much more attention would raise the score read from each layer (Bousselham et al., 2025).

    The tokens that leave a block go through the model's own final normalisation and head. The
    positive part of that score's gradient with respect to the block's attention map is averaged
    over heads, over the tokens that look, and over layers.
    """

    layers: int = Field(
        2, ge=0, le=1000, description="How many of the last layers; 0 for all of them"
    )

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads several layers

    def refusal(self, subject: Subject) -> str:
        if reason := not_one_stream(subject, "LeGrad"):
            return reason
        if _readout(subject.model) is None:
            return (
                f"LeGrad reads the score from earlier layers, and {subject.name} has no final "
                "normalisation and head that could be applied to them; use transformer_relevance"
            )
        return ""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        layers, layout = run.subject.attention_layers, one_layout(run.subject)
        names = list(layers)[-self.layers :]
        target = run.target

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            logits, read, maps = _read_layers(run, rows)
            score = torch.stack([target(read[name], owner) for name in names])
            found = differentiate(
                score.sum(),
                [maps[name] for name in names],
                name=run.subject.name,
                allow_unused=True,
            )
            if any(grad is None for grad in found):
                raise _not_readable(run.subject)
            grads = dict(zip(names, found, strict=True))
            return target(logits, owner).detach(), run.attention_maps(grads, len(rows))

        run.progress.expect(2 * len(run.x))
        passes = [p for _, p in run.stream([(run.x, run.owner)], step, backward=True)]
        even = torch.ones(len(run.x), layout.tokens).to(run.x) / layout.tokens
        slopes = [torch.cat([grads[name] for _, grads in passes]) for name in names]
        received = [
            layers[name].propagate(even, slope.relu().mean(1))
            for name, slope in zip(names, slopes, strict=True)
        ]
        return on_grid(torch.stack(received).mean(0), layout), torch.cat(
            [score for score, _ in passes]
        )


def _read_layers(run: Run, rows: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The model's outputs, those read from each block's tokens, and the attention maps.

    What is read from a block depends on that block's map alone: each starts a graph of its own.
    """
    model, readout = run.subject.model, _readout(run.subject.model)
    blocks = {name: name.rpartition(".")[0] for name in run.subject.attention_layers}
    with (
        record_attention(model, as_graph_leaf) as maps,
        record_and_detach(model, set(blocks.values())) as outputs,
    ):
        logits = run.logits(rows)
    if readout is None or not all(block in outputs for block in blocks.values()):
        raise _not_readable(run.subject)
    read: dict[str, Tensor] = {}
    for name, block in blocks.items():
        tokens = call_model(readout.norm, outputs[block], name=run.subject.name)
        read[name] = call_model(readout.forward_head, tokens, name=run.subject.name)
    last = next(reversed(read.values()))
    if last.shape != logits.shape or not torch.allclose(last, logits, rtol=1e-3, atol=1e-4):
        raise _not_readable(run.subject)
    return logits, read, maps


def _readout(model: nn.Module) -> Any:
    """The part of a model with a final normalisation and a head; None if there is none."""
    for module in model.modules():
        if isinstance(getattr(module, "norm", None), nn.Module) and hasattr(module, "forward_head"):
            return module
    return None


def _not_readable(subject: Subject) -> NotApplicableError:
    return NotApplicableError(
        f"LeGrad reads the score from earlier layers, and what {subject.name} predicts is not its "
        "final normalisation and head applied to its blocks; use transformer_relevance"
    )

"""Attention maps weighted by the gradient of the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.errors import NotApplicableError
from core.methods.attention import patch_values, query_weights, token_layout, why_not_traceable
from core.methods.base import Method, register
from core.runtime.attention_capture import as_graph_leaf, record_attention
from core.runtime.capture import record_and_detach
from core.runtime.model_call import call_model, differentiate
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.outputs import Outputs
from core.types import Cost, Need, Property


@register(
    "transformer_relevance",
    label="Transformer relevance",
    family="attention",
    about="Best for which patches support a transformer's class; not for evidence against it.",
    paper="arXiv:2103.15679",
    needs=[Need.ATTENTION, Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE],
)
class TransformerRelevance(Method):
    """Positive part of attention times gradient, accumulated over layers (Chefer et al., 2021).

    Each layer updates the relevance matrix R to R + A R, where A is the mean over heads of
    relu(gradient * attention). Only the rows of the query tokens are computed, from the last layer
    to the first, and the initial identity matrix is left out.
    """

    query: str = Field(
        "auto",
        pattern=r"^(auto|class|mean|\d{1,6})$",
        title="Query token",
        description="Whose relevance is shown: class (the class token), mean (the mean of all "
        "patches), the number of a patch counted from 0 row by row, or auto (the mean of the "
        "tokens that the score is computed from)",
    )

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads every layer

    def refusal(self, subject: Subject) -> str:
        return why_not_traceable(subject, "transformer_relevance")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        found, layers = run.attention_gradients(), run.subject.attention_layers
        layout = token_layout(run.subject)
        last = next(reversed(found.grad))
        if self.query == "auto":
            slopes = found.grad[last].abs().sum(1)
            row = (layers[last].row_sums(slopes) > 0).to(run.x)
            row = row / row.sum(1, keepdim=True).clamp_min(1)
        else:
            row = query_weights(self.query, layout).to(run.x).expand(len(run.x), -1)
        relevance = torch.zeros_like(row)
        for name, attn in reversed(found.attn.items()):
            weights = (found.grad[name] * attn).relu().mean(1)
            relevance = relevance + layers[name].propagate(row + relevance, weights)
        return patch_values(relevance, layout), found.score


@register(
    "legrad",
    label="LeGrad",
    family="attention",
    about="Best for where more attention raises the score; not for exact localisation of evidence.",
    paper="arXiv:2404.03214",
    needs=[Need.ATTENTION, Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.NONNEGATIVE],
)
class LeGrad(Method):
    """Positive gradient of each block's score to its attention map (Bousselham et al., 2025).

    A score is computed from the output of each block by the model's own final normalisation and
    head. The positive part of its gradient with respect to the block's attention map is averaged
    over heads, query tokens and blocks.

    What the head reads is a choice, and the maps differ. The default is that of the authors' code
    (github.com/WalBouss/LeGrad): the mean of all tokens, the class token among them, before the
    normalisation. With ``tokens="model"`` it is what the model's own head reads, such as the class
    token. On 40 scenes, world_vit's largest value lies on the object in 60 % and in 28 % of them.
    """

    tokens: Literal["mean", "model"] = Field(
        "mean",
        title="Tokens read",
        description="What a block's score is computed from: mean (the mean of all tokens before "
        "the normalisation, as in the authors' code) or model (what the model's own head reads, "
        "such as the class token)",
    )
    layers: int = Field(
        2, ge=0, le=1000, description="Number of last layers to use; 0 for all layers"
    )

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads several layers

    def refusal(self, subject: Subject) -> str:
        if reason := why_not_traceable(subject, "LeGrad"):
            return reason
        if _readout(subject.model) is None:
            return (
                f"LeGrad applies the final normalisation and head to earlier layers, and "
                f"{subject.name} has none; use transformer_relevance"
            )
        return ""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        layers, layout = run.subject.attention_layers, token_layout(run.subject)
        names = list(layers)[-self.layers :]
        target = run.target

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            outputs, block_outputs, maps = _block_outputs(run, rows, mean=self.tokens == "mean")
            score = torch.stack([target(block_outputs[name], owner) for name in names])
            found = differentiate(
                score.sum(),
                [maps[name] for name in names],
                name=run.subject.name,
                allow_unused=True,
            )
            if any(grad is None for grad in found):
                raise _no_block_scores(run.subject)
            grads = dict(zip(names, found, strict=True))
            return target(outputs, owner).detach(), run.attention_maps(grads, len(rows))

        run.progress.expect(2 * len(run.x))
        passes = [p for _, p in run.stream([(run.x, run.owner)], step, backward=True)]
        even = torch.ones(len(run.x), layout.tokens).to(run.x) / layout.tokens
        slopes = [torch.cat([grads[name] for _, grads in passes]) for name in names]
        received = [
            layers[name].propagate(even, slope.relu().mean(1))
            for name, slope in zip(names, slopes, strict=True)
        ]
        score = torch.cat([score for score, _ in passes])
        return patch_values(torch.stack(received).mean(0), layout), score


def _block_outputs(
    run: Run, rows: Tensor, *, mean: bool
) -> tuple[Outputs, dict[str, Outputs], dict[str, Tensor]]:
    """The model's outputs, those computed from each block's output, and the attention maps.

    The graph is cut between blocks, so the outputs of a block depend on that block's map only.

    Args:
        run: the model.
        rows: the images.
        mean: whether a block's outputs are computed from the mean of its tokens, which then takes
            the place of every token, so that any head reads it.
    """
    model, readout = run.subject.model, _readout(run.subject.model)
    blocks = {name: name.rpartition(".")[0] for name in run.subject.attention_layers}
    with (
        record_attention(model, as_graph_leaf) as maps,
        record_and_detach(model, set(blocks.values())) as recorded,
    ):
        outputs = run.forward(rows)
    if readout is None or not all(block in recorded for block in blocks.values()):
        raise _no_block_scores(run.subject)

    def read(tokens: Tensor) -> Outputs:
        normed = call_model(readout.norm, tokens, name=run.subject.name)
        head = call_model(readout.forward_head, normed, name=run.subject.name)
        return run.subject.task.read(head)

    last = read(recorded[next(reversed(blocks.values()))])
    if last.graph.shape != outputs.graph.shape or not _is_close(last, outputs):
        raise _no_block_scores(run.subject)
    found: dict[str, Outputs] = {}
    for name, block in blocks.items():
        tokens = recorded[block]
        if mean:
            tokens = tokens.mean(tuple(range(1, tokens.ndim - 1)), keepdim=True).expand_as(tokens)
        found[name] = read(tokens)
    return outputs, found, maps


def _is_close(one: Outputs, other: Outputs) -> bool:
    return bool((one.change(other) <= 1e-4 + 1e-3 * other.magnitude()).all())


@dataclass(frozen=True, slots=True)
class _Readout:
    """What turns a block's tokens into scores: the final normalisation and the head."""

    norm: nn.Module
    forward_head: Callable[[Tensor], Tensor]


def _readout(model: nn.Module) -> _Readout | None:
    """The final normalisation and head of timm's and torchvision's transformers; else None."""
    for module in model.modules():
        norm, head = getattr(module, "norm", None), getattr(module, "forward_head", None)
        if isinstance(norm, nn.Module) and callable(head):
            return _Readout(norm, head)
        heads, encoder = getattr(module, "heads", None), getattr(module, "encoder", None)
        norm = getattr(encoder, "ln", None)
        if isinstance(heads, nn.Module) and isinstance(norm, nn.Module):
            return _Readout(norm, partial(_class_token_head, heads))
    return None


def _class_token_head(heads: nn.Module, tokens: Tensor) -> Tensor:
    scores: Tensor = heads(tokens[:, 0])
    return scores


def _no_block_scores(subject: Subject) -> NotApplicableError:
    return NotApplicableError(
        f"LeGrad applies the final normalisation and head to earlier layers, and {subject.name} "
        "does not compute its prediction that way; use transformer_relevance"
    )

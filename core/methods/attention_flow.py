"""How much attention can flow from one token to each patch (Abnar & Zuidema, 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import maximum_flow  # type: ignore[import-untyped]
from torch import Tensor

from core.errors import UnknownNameError
from core.methods.attention import (
    Query,
    held_by,
    not_one_stream,
    on_grid,
    one_layout,
)
from core.methods.base import Method, register
from core.runtime.batching import Progress
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import AttentionLayer, Cost, Layout, Need

LARGEST = 300
"""Tokens up to which the largest flows are searched for: 197 in 12 layers take about a minute."""
PER_STEP = 5e-7
"""Seconds of that search on a laptop, for each layer and tokens to the third power: measured."""
UNIT = 2**28
"""Capacities are counted in whole numbers, this many to one."""
SLACK = 1e-6
"""How far a bound may be missed by the flow that shows it to be reached."""
TINY = 1e-30
ROUNDS = 60
"""Rounds of fitting the middle layer's flow to what arrives and what is asked."""


@register(
    "attention_flow",
    label="Attention flow",
    family="attention",
    about="Best for how much attention could pass to each patch; not for telling classes apart.",
    paper="arXiv:2005.00928",
    needs=[Need.ATTENTION],
)
class AttentionFlow(Method):
    """Attention read as a network of pipes (Abnar & Zuidema, 2020); the target plays no part.

    "max-flow": tokens of all layers are nodes, and half attention, half residual path is how much
    fits through each pipe from one layer to the one before. A patch's value is the most that can
    flow to it from the token that looks. In deep models the narrowest cut is often the last layer
    of pipes or the first, and then many patches reach the same value, 1.

    "patch-to-patch": attention among patches alone, with the residual path, through all layers as
    in rollout. Prefix tokens are left out, and each patch's attention to the others sums to one. A
    patch's value is what it receives from the other patches on average, or from the patch that
    looks.
    """

    reading: Literal["max-flow", "patch-to-patch"] = Field(
        "max-flow", description="What flows: the most that fits, or shares from patch to patch"
    )
    query: str = Query

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads every layer

    def refusal(self, subject: Subject) -> str:
        if reason := not_one_stream(subject, "flow"):
            return reason
        tokens = one_layout(subject).tokens
        if self.reading == "max-flow" and tokens > LARGEST:
            return (
                f"max-flow is too slow beyond {LARGEST} tokens, and {subject.name} has {tokens}; "
                "use reading patch-to-patch or attention_rollout"
            )
        return ""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        if self.reading == "patch-to-patch":
            return Cost(1)
        layouts = [layer.layout for layer in subject.attention_layers.values() if layer.layout]
        return Cost(1, seconds=PER_STEP * sum(layout.tokens**3 for layout in layouts))

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        layout, layers = one_layout(run.subject), run.subject.attention_layers
        held = held_by(self.query, layout)
        maps = [
            square(weights.mean(1).double().cpu(), layers[name])
            for name, weights in run.attention().items()
        ]
        if self.reading == "patch-to-patch":
            row = self._patch_to_patch(maps, layout)
        else:
            row = torch.stack(
                [
                    torch.from_numpy(flows(network, held[0].numpy(), run.progress))
                    for network in zip(*(w.numpy() for w in maps), strict=True)
                ]
            )
        return on_grid(row, layout).to(run.x), run.score()

    def _patch_to_patch(self, maps: Sequence[Tensor], layout: Layout) -> Tensor:
        """(B, T) what each patch receives from others; prefix tokens hold nothing."""
        if self.query == "class":
            raise UnknownNameError(
                "no class token among the patches; look from 'mean' or a patch's number"
            )
        skip = layout.prefix
        flow = torch.eye(layout.tokens - skip, dtype=torch.float64)[None]
        for weights in maps:
            among = weights[:, skip:, skip:]
            among = among / among.sum(-1, keepdim=True).clamp_min(torch.finfo(among.dtype).tiny)
            flow = (among + torch.eye(among.shape[-1])) / 2 @ flow
        if self.query.isdigit():
            received = flow[:, int(self.query)]
        else:
            others = flow - torch.diag_embed(flow.diagonal(dim1=1, dim2=2))
            received = others.sum(1) / (flow.shape[-1] - 1)
        return torch.cat([received.new_zeros(len(received), skip), received], 1)


def square(weights: Tensor, layer: AttentionLayer) -> Tensor:
    """Maps (B, T, T) over all tokens of the picture, whatever windows they were computed in."""
    if layer.keys is None:
        return weights
    assert layer.layout is not None
    each = torch.eye(layer.layout.tokens).to(weights)
    return torch.stack(
        [layer.propagate(each, one.expand(len(each), *one.shape)) for one in weights]
    )


def flows(maps: Sequence[np.ndarray], held: np.ndarray, progress: Progress) -> np.ndarray:
    """(T,) the most that can flow to each token of the first layer's input.

    No more than one unit leaves the source, and no more reaches a token than the pipes to it hold.
    Where a flow can be given that reaches the smaller of these bounds, it is the answer; for the
    other tokens the largest flow is searched for.

    Args:
        maps: attention (T, T) from tokens that look to tokens that are looked at, first layer
            first.
        held: (T,) how much of one unit each token of the last layer may send.
        progress: told during the search, so that it can be stopped.
    """
    pipes = [(w + np.eye(len(w))) / (1 + w.sum(1, keepdims=True)) for w in maps]
    found: np.ndarray = np.minimum(1.0, pipes[0].sum(0))
    open_ = np.flatnonzero(~_reaches(pipes, held, found))
    if len(open_):
        found[open_] = _searched(pipes, held, open_, progress)
    return found


def _reaches(pipes: Sequence[np.ndarray], held: np.ndarray, most: np.ndarray) -> np.ndarray:
    """(T,) whether a flow as large as `most` to each token is found.

    From the source it spreads in proportion to the pipes, and so it does backwards from the sink.
    In the middle layer, what arrives is fitted to what is asked by scaling rows and columns of the
    pipes in turn (Sinkhorn, 1967); the flow holds if no pipe is asked for more than it has.
    """
    meeting = len(pipes) // 2
    have = held
    for pipe in reversed(pipes[meeting + 1 :]):
        have = have @ pipe
    need, fits = np.diag(most), np.ones(len(most), dtype=bool)
    for pipe in pipes[:meeting]:
        inlets = pipe.sum(0)[:, None]
        fits &= (need <= inlets * (1 + SLACK)).all(0)
        need = pipe @ (need / inlets)
    arrives, pipe = have[:, None] * most, pipes[meeting]
    columns = np.ones_like(need)
    for _ in range(ROUNDS):
        rows = arrives / np.maximum(pipe @ columns, TINY)
        columns = need / np.maximum(pipe.T @ rows, TINY)
    left = np.abs(rows * (pipe @ columns) - arrives).sum(0)
    asked = rows.max(0) * columns.max(0)
    shown: np.ndarray = fits & (left <= SLACK) & (asked <= 1 + SLACK)
    return shown


def _searched(
    pipes: Sequence[np.ndarray], held: np.ndarray, sinks: np.ndarray, progress: Progress
) -> np.ndarray:
    """(J,) the largest flow to each of the `sinks`, by Dinic's algorithm in whole numbers."""
    tokens, levels = len(held), len(pipes)
    source = tokens * (levels + 1)
    heads, tails, sizes = [np.full(tokens, source)], [levels * tokens + np.arange(tokens)], [held]
    for level, pipe in enumerate(pipes):
        head, tail = np.indices(pipe.shape).reshape(2, -1)
        heads.append(head + (level + 1) * tokens)
        tails.append(tail + level * tokens)
        sizes.append(pipe.ravel())
    size = np.rint(np.concatenate(sizes) * UNIT).astype(np.int32)
    edges = np.concatenate(heads)[size > 0], np.concatenate(tails)[size > 0]
    network = csr_array((size[size > 0], edges), shape=(source + 1, source + 1))
    found = []
    for sink in sinks:
        found.append(maximum_flow(network, source, int(sink)).flow_value / UNIT)
        progress.advance(0)
    return np.array(found)

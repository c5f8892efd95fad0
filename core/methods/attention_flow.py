"""Attention flow: the maximum flow from one token to each patch (Abnar & Zuidema, 2020)."""

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
    patch_values,
    query_weights,
    token_layout,
    why_not_traceable,
)
from core.methods.base import Method, register
from core.runtime.batching import Progress
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import AttentionLayer, Cost, Layout, Need

MAX_TOKENS = 300
"""Largest number of tokens for max-flow: 197 tokens in 12 layers take about 1 minute."""
SECONDS_PER_CUBED_TOKEN = 5e-7
"""Seconds of max-flow per layer and tokens^3, measured on a laptop."""
CAPACITY_UNIT = 2**28
"""The integer that stands for a capacity of 1 in the maximum flow algorithm."""
FLOW_TOLERANCE = 1e-6
"""How far a flow may miss the upper bound and still count as reaching it."""
TINY = 1e-30
SINKHORN_ROUNDS = 60
"""Rounds of scaling the middle layer's flow to its supply and demand (Sinkhorn, 1967)."""


@register(
    "attention_flow",
    label="Attention flow",
    family="attention",
    about="Best for how much attention can reach each patch; not for telling classes apart.",
    paper="arXiv:2005.00928",
    needs=[Need.ATTENTION],
)
class AttentionFlow(Method):
    """Attention as a flow network over all layers (Abnar & Zuidema, 2020).

    The map does not depend on the target.

    "max-flow": the tokens of all layers are nodes. The capacity of an edge between two layers is
    half attention and half residual connection. A patch's value is the maximum flow to it from the
    query token. In deep models the minimum cut is often at the first or last layer, and then many
    patches have the same value, 1.

    "patch-to-patch": a rollout over patches only. Prefix tokens are left out, and the attention of
    each patch to all patches is normalised to a sum of 1. A patch's value is the mean of what it
    receives from the other patches, or what it receives from the query patch.
    """

    reading: Literal["max-flow", "patch-to-patch"] = Field(
        "max-flow",
        description="max-flow: the maximum flow to each patch; patch-to-patch: a rollout without "
        "prefix tokens, which is much faster",
    )
    query: str = Query

    def layer_needs(self) -> frozenset[Need]:
        return frozenset()  # it reads every layer

    def refusal(self, subject: Subject) -> str:
        if reason := why_not_traceable(subject, "flow"):
            return reason
        tokens = token_layout(subject).tokens
        if self.reading == "max-flow" and tokens > MAX_TOKENS:
            return (
                f"max-flow is too slow for more than {MAX_TOKENS} tokens, and {subject.name} has "
                f"{tokens}; set reading to patch-to-patch or use attention_rollout"
            )
        return ""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        if self.reading == "patch-to-patch":
            return Cost(1)
        layouts = [layer.layout for layer in subject.attention_layers.values() if layer.layout]
        return Cost(
            1, seconds=SECONDS_PER_CUBED_TOKEN * sum(layout.tokens**3 for layout in layouts)
        )

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        layout, layers = token_layout(run.subject), run.subject.attention_layers
        source = query_weights(self.query, layout)
        maps = [
            token_matrix(weights.mean(1).double().cpu(), layers[name])
            for name, weights in run.attention().items()
        ]
        if self.reading == "patch-to-patch":
            row = self._patch_to_patch(maps, layout)
        else:
            row = torch.stack(
                [
                    torch.from_numpy(max_flows(network, source[0].numpy(), run.progress))
                    for network in zip(*(w.numpy() for w in maps), strict=True)
                ]
            )
        return patch_values(row, layout).to(run.x), run.score()

    def _patch_to_patch(self, maps: Sequence[Tensor], layout: Layout) -> Tensor:
        """(B, T) what each patch receives from other patches; 0 for prefix tokens."""
        if self.query == "class":
            raise UnknownNameError(
                "no class token among the patches; give 'mean' or the number of a patch as query"
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


def token_matrix(weights: Tensor, layer: AttentionLayer) -> Tensor:
    """Attention between all tokens of the picture (B, T, T), also of windowed attention."""
    if layer.keys is None:
        return weights
    assert layer.layout is not None
    each = torch.eye(layer.layout.tokens).to(weights)
    return torch.stack(
        [layer.propagate(each, one.expand(len(each), *one.shape)) for one in weights]
    )


def max_flows(maps: Sequence[np.ndarray], source: np.ndarray, progress: Progress) -> np.ndarray:
    """The maximum flow from the query tokens of the last layer to each input token.

    The flow to a token has two upper bounds: 1, which is all that leaves the source, and the sum of
    the capacities of the edges into the token. If a flow that reaches the smaller bound is found,
    that bound is the maximum flow. For the other tokens a maximum flow algorithm is run.

    Args:
        maps: attention (T, T) of every layer, queries by keys, first layer first.
        source: (T,) how much each token of the last layer can send, with sum 1.
        progress: advanced after each run of the algorithm, so that it can be cancelled.

    Returns:
        (T,) flows from 0 to 1.
    """
    capacities = [(w + np.eye(len(w))) / (1 + w.sum(1, keepdims=True)) for w in maps]
    flow: np.ndarray = np.minimum(1.0, capacities[0].sum(0))
    undecided = np.flatnonzero(~_reaches_bound(capacities, source, flow))
    if len(undecided):
        flow[undecided] = _dinic_flows(capacities, source, undecided, progress)
    return flow


def _reaches_bound(
    capacities: Sequence[np.ndarray], source: np.ndarray, bound: np.ndarray
) -> np.ndarray:
    """(T,) whether a flow as large as `bound` (T,) to each token is found.

    The flow is spread in proportion to the capacities, forwards from the source and backwards from
    the sink. In the middle layer, supply and demand are matched by scaling rows and columns of the
    capacities in turn (Sinkhorn, 1967). The flow is valid if no edge exceeds its capacity.
    """
    middle = len(capacities) // 2
    spread = source
    for capacity in reversed(capacities[middle + 1 :]):
        spread = spread @ capacity
    demand, fits = np.diag(bound), np.ones(len(bound), dtype=bool)
    for capacity in capacities[:middle]:
        inflow = capacity.sum(0)[:, None]
        fits &= (demand <= inflow * (1 + FLOW_TOLERANCE)).all(0)
        demand = capacity @ (demand / inflow)
    supply, capacity = spread[:, None] * bound, capacities[middle]
    columns = np.ones_like(demand)
    for _ in range(SINKHORN_ROUNDS):
        rows = supply / np.maximum(capacity @ columns, TINY)
        columns = demand / np.maximum(capacity.T @ rows, TINY)
    mismatch = np.abs(rows * (capacity @ columns) - supply).sum(0)
    load = rows.max(0) * columns.max(0)  # the largest flow over capacity of any edge
    reached: np.ndarray = fits & (mismatch <= FLOW_TOLERANCE) & (load <= 1 + FLOW_TOLERANCE)
    return reached


def _dinic_flows(
    capacities: Sequence[np.ndarray], source: np.ndarray, sinks: np.ndarray, progress: Progress
) -> np.ndarray:
    """(J,) the maximum flow to each of the `sinks`, by Dinic's algorithm on integers."""
    tokens, levels = len(source), len(capacities)
    origin = tokens * (levels + 1)
    heads, tails, sizes = [np.full(tokens, origin)], [levels * tokens + np.arange(tokens)], [source]
    for level, capacity in enumerate(capacities):
        head, tail = np.indices(capacity.shape).reshape(2, -1)
        heads.append(head + (level + 1) * tokens)
        tails.append(tail + level * tokens)
        sizes.append(capacity.ravel())
    size = np.rint(np.concatenate(sizes) * CAPACITY_UNIT).astype(np.int32)
    edges = np.concatenate(heads)[size > 0], np.concatenate(tails)[size > 0]
    network = csr_array((size[size > 0], edges), shape=(origin + 1, origin + 1))
    flows = []
    for sink in sinks:
        flows.append(maximum_flow(network, origin, int(sink)).flow_value / CAPACITY_UNIT)
        progress.advance(0)
    return np.array(flows)

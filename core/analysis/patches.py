"""How each patch of a picture relates to every other one, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError, TimmscopeError
from core.result import Result
from core.runtime.run import Run
from core.types import AttentionLayer, Layout

Kind = Literal["similarity", "attention"]
Grid = tuple[int, int]

MAX_CELLS = 16 * 16
"""A finer grid of patches is made coarser, to at most so many patches."""
MAX_VALUES = 6 * 2**20
"""The most values of all layers together; with more, some layers are left out. A ViT-B with patches
of 16 pixels fits."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PatchLayer(Result):
    """What one layer says of every pair of patches.

    Attributes:
        layer: the layer's name.
        kind: "similarity" is the cosine of two patches' features, from -1 to 1; "attention" is the
            weight from 0 to 1 with which the first patch attends to the second.
        values: (heads, n, m) float32, on the CPU; a similarity has one "head". Rows are the patches
            of `grid`, row by row, and then the tokens of `tokens`; columns those of `key_grid`.
        grid: height and width of the grid of patches that can be asked about.
        key_grid: height and width of the grid that the answers lie on.
        own_grid: the layer's own grid; it is finer than `grid` where patches were merged.
        tokens: names of further rows, such as "class token".
        window: the most patches that one patch attends to; 0 where it attends to all.
    """

    layer: str
    kind: Kind
    values: Tensor
    grid: Grid
    key_grid: Grid
    own_grid: Grid
    tokens: tuple[str, ...] = ()
    window: int = 0

    @property
    def heads(self) -> int:
        """The number of attention heads; 1 for a similarity."""
        return len(self.values)

    @property
    def other_tokens(self) -> Tensor:
        """(heads, n) the share of attention that goes to tokens that are no patches."""
        if self.kind == "similarity":
            return self.values.new_zeros(self.values.shape[:2])
        return (1 - self.values.sum(2)).clamp(min=0)

    def row_at(self, x: float, y: float) -> int:
        """The row of the patch at a point of the model's input.

        Args:
            x: from 0 at the left edge of the input to 1 at its right edge.
            y: from 0 at the top to 1 at the bottom.

        Raises:
            TimmscopeError: the point lies outside of the input.
        """
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise TimmscopeError("the model does not see this point; choose one inside of its crop")
        height, width = self.grid
        return min(int(y * height), height - 1) * width + min(int(x * width), width - 1)

    def maps(self, row: int) -> Tensor:
        """(heads, h, w) what a row says of every patch."""
        shown: Tensor = self.values[:, row].unflatten(1, self.key_grid)
        return shown


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PatchMaps(Result):
    """How each patch of a picture relates to every other one.

    Attributes:
        similarity: layers in order of depth.
        attention: layers in order of depth; empty where `reasons` says why.
        reasons: by kind, why there are no layers of it.
        notes: sentences on what was merged or left out.
    """

    similarity: tuple[PatchLayer, ...]
    attention: tuple[PatchLayer, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[PatchLayer]:
        """All layers, similarities first."""
        yield from self.similarity
        yield from self.attention


def patch_maps(
    run: Run, layers: Sequence[str], attention_layers: Sequence[str], reasons: Mapping[str, str]
) -> PatchMaps:
    """How each patch of the run's first image relates to every other one.

    One pass for all features, and one for all attention.

    Args:
        run: of the picture; its layer does not matter.
        layers: whose features are compared, in order of depth; each lies on a grid.
        attention_layers: whose attention is read, in order of depth; each lies on the picture.
        reasons: by kind, why there are no layers of it.
    """
    kept, notes = _fitting(run, layers, attention_layers)
    similar = [name for name in layers if name in kept]
    attending = [name for name in attention_layers if name in kept]
    features = run.activations(similar) if similar else {}
    weights = run.attention() if attending else {}
    described = run.subject.attention_layers
    found = PatchMaps(
        tuple(feature_similarity(name, features[name][0]) for name in similar),
        tuple(patch_attention(described[name], weights[name][0]) for name in attending),
        dict(reasons),
    )
    return replace(found, notes=(*notes, *_merged(found)))


def feature_similarity(layer: str, act: Tensor) -> PatchLayer:
    """The cosine similarity of the features of every two patches.

    Features are taken as they are, not centred. A patch whose features are all zero is like none.

    Args:
        layer: the layer's name.
        act: (K, h, w) its output. On a finer grid than `MAX_CELLS`, the features of neighbouring
            patches are averaged.
    """
    own = (act.shape[1], act.shape[2])
    grid = coarser(own)
    features = act.float().flatten(1).T
    if grid != own:
        pooling = overlap(own, grid).to(features)
        features = pooling / pooling.sum(1, keepdim=True) @ features
    unit = F.normalize(features, dim=1)
    return PatchLayer(layer, "similarity", (unit @ unit.T)[None].cpu(), grid, grid, own)


def patch_attention(layer: AttentionLayer, weights: Tensor) -> PatchLayer:
    """The attention of every patch to every patch, head by head.

    Where patches are merged, a patch's attention is the mean of those that it was merged from, and
    what it gives to a patch is the sum of what it gives to the parts.

    Args:
        layer: the layer.
        weights: its attention for one image, (heads, T, T) or grouped (heads, groups, queries,
            keys).

    Raises:
        NotApplicableError: the layer's attention cannot be mapped to the picture.
    """
    keys, queries = layer.layout, layer.query_layout or layer.layout
    if keys is None or queries is None:
        raise NotApplicableError(f"attention in {layer.name!r} lies on no grid: {layer.reason}")
    grid, key_grid = coarser(queries.grid), coarser(keys.grid)
    rows = _query_rows(queries, grid).to(weights)
    received = layer.attended(rows, weights)[..., keys.prefix :]
    if key_grid != keys.grid:
        received = received @ overlap(keys.grid, key_grid).to(received).T
    return PatchLayer(
        layer.name, "attention", received.float().cpu(), grid, key_grid, queries.grid,
        _token_names(queries), _window(layer, weights),
    )  # fmt: skip


def coarser(grid: Grid) -> Grid:
    """The grid itself, or one of the same proportions with at most `MAX_CELLS` cells.

    >>> coarser((14, 14)), coarser((56, 56)), coarser((37, 37))
    ((14, 14), (14, 14), (13, 13))
    """
    times = 1
    while math.ceil(grid[0] / times) * math.ceil(grid[1] / times) > MAX_CELLS:
        times += 1
    return math.ceil(grid[0] / times), math.ceil(grid[1] / times)


def overlap(fine: Grid, coarse: Grid) -> Tensor:
    """(cells of `coarse`, cells of `fine`) the share of each fine cell that lies in a coarse one.

    >>> overlap((1, 3), (1, 2)).tolist()
    [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    """
    down, across = (_overlap_along(a, b) for a, b in zip(fine, coarse, strict=True))
    return torch.kron(down, across)


def _overlap_along(fine: int, coarse: int) -> Tensor:
    cells = torch.arange(fine, dtype=torch.float64)
    starts = torch.arange(coarse, dtype=torch.float64)[:, None] * fine / coarse
    low, high = torch.maximum(cells, starts), torch.minimum(cells + 1, starts + fine / coarse)
    return (high - low).clamp(min=0).float()


def _query_rows(layout: Layout, grid: Grid) -> Tensor:
    """(n, T) the weights of the query tokens for each row: patches first, then other tokens."""
    pooling = overlap(layout.grid, grid)
    pooling = pooling / pooling.sum(1, keepdim=True)
    rows = torch.zeros(len(pooling) + layout.prefix, layout.tokens)
    rows[: len(pooling), layout.prefix :] = pooling
    rows[len(pooling) :, : layout.prefix] = torch.eye(layout.prefix)
    return rows


def _token_names(layout: Layout) -> tuple[str, ...]:
    """What the tokens before the patches are called."""
    names = ["class token"] if layout.class_token else []
    others = layout.prefix - len(names)
    return (*names, *(f"extra token {i + 1}" for i in range(others)))


def _window(layer: AttentionLayer, weights: Tensor) -> int:
    """The most patches that lie in one group of keys; 0 if all patches do."""
    if layer.keys is None or layer.layout is None:
        return 0
    prefix, cells = layer.layout.prefix, layer.layout.grid[0] * layer.layout.grid[1]
    pairs = torch.stack([layer.keys.slot // weights.shape[-1], layer.keys.token])
    groups = pairs[:, layer.keys.token >= prefix].unique(dim=1)[0]
    most = int(groups.bincount().max())
    return most if most < cells else 0


def _fitting(
    run: Run, layers: Sequence[str], attention_layers: Sequence[str]
) -> tuple[set[str], list[str]]:
    """The layers whose values fit into `MAX_VALUES`, and what is said of those that do not."""
    sizes: dict[str, int] = {}
    for name in layers:
        layout = run.subject.layers[name].layout
        assert layout is not None
        sizes[name] = math.prod(coarser(layout.grid)) ** 2
    for name in attention_layers:
        layer = run.subject.attention_layers[name]
        assert layer.layout is not None
        queries = layer.query_layout or layer.layout
        rows = math.prod(coarser(queries.grid)) + queries.prefix
        size = layer.heads * rows * math.prod(coarser(layer.layout.grid))
        sizes[name] = size + sizes.get(name, 0)
    if sum(sizes.values()) <= MAX_VALUES:
        return set(sizes), []
    kept, every = set(sizes), 1
    while sum(sizes[name] for name in kept) > MAX_VALUES and every < len(sizes):
        every += 1
        kept = {*_spread(layers, every), *_spread(attention_layers, every)}
    return kept, [
        f"All {len(sizes)} layers are too large together: every {_ordinal(every)} is shown. Name "
        "layers to see others."
    ]


def _spread(layers: Sequence[str], every: int) -> Sequence[str]:
    """Every so many layers, the last one among them."""
    return layers[::-1][::every]


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _merged(found: PatchMaps) -> list[str]:
    """What was made coarser, as a sentence."""
    fine = dict.fromkeys(one.own_grid for one in found if one.own_grid != one.grid)
    if not fine:
        return []
    grids = ", ".join(f"{width} x {height}" for height, width in fine)
    return [f"On fine grids ({grids}) neighbouring patches are merged."]

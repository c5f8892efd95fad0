"""Finds which patches the rows and columns of an attention map belong to, by gradients.

Models with windowed attention, pooled keys or class attention do not declare which patches their
queries and keys are, and each family arranges them differently. So one forward pass is made in
which all attention weights are zero. Then the gradient of a module's output with respect to a
weight depends linearly on the values of one key, and later layers see a constant input. A few
backward passes, each with a different number (code) for every key, show at each patch the code of
the key that it feeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.models.layout_check import concentrated_elsewhere
from core.runtime.attention_capture import record_attention
from core.runtime.capture import record_all_tensors
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.forward import Forward
from core.runtime.model_call import differentiate
from core.types import Layout, TokenMap, grouped

BEFORE, AFTER = 200, 32
"""How many tensors before and after an attention map are searched."""
MAX_SINGLE_KEYS = 64
"""If patches feed several keys, keys are tested one by one, up to this number of keys."""

UNKNOWN_ORDER = "tokens are not in row-by-row order"

LayoutOf = Callable[[Tensor], Layout | None]


@dataclass(frozen=True, slots=True)
class AttentionMapLayout:
    """Which tokens the rows and columns of an attention map are, and where they lie.

    Attributes:
        axis: the axis of the map that counts the heads.
        keys: the tokens of the columns.
        queries: the tokens of the rows.
        key_layout: how the key tokens lie on the picture.
        query_layout: how the query tokens lie on the picture.
    """

    axis: int
    keys: TokenMap
    queries: TokenMap
    key_layout: Layout
    query_layout: Layout


def find_attention_layouts(
    model: nn.Module, x: Tensor, names: Collection[str], layout_of: LayoutOf, forward: Forward
) -> dict[str, AttentionMapLayout | str]:
    """Finds the layout of the named attention maps.

    Args:
        model: the model; it is left unchanged.
        x: (1, C, H, W) any picture.
        names: names of maps, as `record_attention` gives them.
        layout_of: returns the layout of a tensor with one image; None if it has none.
        forward: how the model is called.

    Returns:
        By name, the layout, or the reason why it cannot be found.
    """
    with evaluation_mode(model):
        zeroed = _RecordedPass.of(model, x, torch.zeros_like, forward)
        keys_of = {name: _find_keys(zeroed, name, layout_of) for name in names}
        unchanged = None
        found: dict[str, AttentionMapLayout | str] = {}
        for name, keys in keys_of.items():
            if isinstance(keys, str):
                found[name] = keys
            elif keys.one_to_one and zeroed.is_square(name):
                found[name] = AttentionMapLayout(
                    keys.axis, keys.tokens, keys.tokens, keys.layout, keys.layout
                )
            else:
                unchanged = unchanged or _RecordedPass.of(model, x, torch.Tensor.detach, forward)
                queries = _find_queries(unchanged, name, keys.axis, layout_of)
                found[name] = _with_queries(keys, queries)
    return found


@dataclass(frozen=True, slots=True)
class _RecordedPass:
    """A forward pass with attention maps as graph leaves, and all tensors between modules.

    Attributes:
        leaves: the maps by name.
        positions: for each map, how many tensors were recorded before it was computed.
        tensors: the tensors that entered or left a module, in order.
        x: the picture.
        model_name: the model's name, for error messages.
    """

    leaves: Mapping[str, Tensor]
    positions: Mapping[str, int]
    tensors: Sequence[Tensor]
    x: Tensor
    model_name: str

    @classmethod
    def of(
        cls, model: nn.Module, x: Tensor, change: Callable[[Tensor], Tensor], forward: Forward
    ) -> _RecordedPass:
        """Makes a pass in which `change` is applied to every map."""
        leaves: dict[str, Tensor] = {}
        positions: dict[str, int] = {}

        def use(name: str, weights: Tensor) -> Tensor:
            positions[name] = len(tensors)
            leaves[name] = change(weights).clone().requires_grad_()
            return leaves[name]

        x = x.detach().clone().requires_grad_()
        with record_all_tensors(model) as tensors, record_attention(model, use):
            forward.raw(x)
        return cls(leaves, positions, tensors, x, forward.name)

    def is_square(self, name: str) -> bool:
        """Whether there are as many queries as keys."""
        return self.leaves[name].shape[-2] == self.leaves[name].shape[-1]

    def axes(self, name: str) -> Sequence[int]:
        """The axes of the map that may count the heads."""
        return (1, 2) if self.leaves[name].ndim == 5 else (1,)

    def before(self, name: str, layout_of: LayoutOf) -> Iterator[tuple[Tensor, Layout]]:
        """Tensors with a layout from before a map was computed, latest first.

        In some families the first axis counts heads instead of images.
        """
        end, heads = self.positions[name], self.leaves[name].shape[1]
        for tensor in self.tensors[max(0, end - BEFORE) : end][::-1]:
            layout = layout_of(tensor[:1]) if len(tensor) in (1, heads) else None
            if layout is not None and tensor.requires_grad:
                yield tensor, layout

    def after(self, name: str, layout_of: LayoutOf) -> Iterator[tuple[Tensor, Layout]]:
        """Tensors with a layout from after a map was computed, earliest first."""
        start = self.positions[name]
        for tensor in self.tensors[start : start + AFTER]:
            layout = layout_of(tensor) if tensor.requires_grad else None
            if layout is not None:
                yield tensor, layout

    def in_order(self, tensor: Tensor, layout: Layout) -> bool:
        """Whether the tokens may be in row-by-row order; False only if a test contradicts it.

        Without attention, most tokens depend on nearby pixels only. Three tokens are tested: if the
        pixels that one depends on are close together, they must be at its expected position.
        """
        if layout.format != "NLC" or len(tensor) > 1:
            return True
        height, width = layout.grid
        for row, column in ((0, width - 1), (height - 1, 0), (height // 2, width // 3)):
            token = tensor[0, layout.prefix + row * width + column]
            mixed = (token * _noise(token.shape, token)).sum()
            grad = self.gradient(mixed, self.x)
            if grad is not None and grad.any():
                size = grad[0].square().sum(0)
                for sensitivity, cells, position in (
                    (size.sum(1), height, row),
                    (size.sum(0), width, column),
                ):
                    if concentrated_elsewhere(sensitivity, cells, position + 0.5):
                        return False
        return True

    def gradient(self, output: Tensor, x: Tensor, *, create_graph: bool = False) -> Tensor | None:
        """The gradient of a scalar with respect to `x`; None if it does not depend on `x`."""
        (grad,) = differentiate(
            output,
            x,
            name=self.model_name,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
        return grad

    def weight_gradient(self, name: str) -> Tensor | None:
        """The gradient of a random output with respect to a map: linear in the keys' values."""
        leaf, start = self.leaves[name], self.positions[name]
        for output in self.tensors[start : start + AFTER]:
            if not output.requires_grad:
                continue
            mixed = (output * _noise(output.shape, output)).sum()
            grad = self.gradient(mixed, leaf, create_graph=True)
            if grad is not None and grad.requires_grad:
                return grad
        return None


@dataclass(frozen=True, slots=True)
class _Keys:
    """The axis that counts the heads, and the tokens that feed each key."""

    axis: int
    tokens: TokenMap
    layout: Layout

    @property
    def one_to_one(self) -> bool:
        """Whether each key is fed by exactly one token."""
        return len(self.tokens.slot.unique()) == len(self.tokens.slot)


def _with_queries(keys: _Keys, found: tuple[TokenMap, Layout] | None) -> AttentionMapLayout | str:
    if found is None:
        return "it could not be determined which patches the queries are"
    return AttentionMapLayout(keys.axis, keys.tokens, found[0], keys.layout, found[1])


def _find_keys(zeroed: _RecordedPass, name: str, layout_of: LayoutOf) -> _Keys | str:
    """The tokens that feed each key, from the latest tensor with a layout that feeds any."""
    gradient = zeroed.weight_gradient(name) if zeroed.leaves[name].ndim in (4, 5) else None
    for tensor, layout in zeroed.before(name, layout_of) if gradient is not None else ():
        for axis in zeroed.axes(name):
            assert gradient is not None
            keys = grouped(gradient, 1, axis)[0].sum((0, 2))
            back = _KeyCodes(keys, tensor, layout, zeroed.gradient)
            ones = back(torch.ones_like(back.keys))
            if ones is None:
                break
            decoded = _decode(ones, back.keys.shape, back)
            if decoded is not None:
                if not zeroed.in_order(tensor, layout):
                    return UNKNOWN_ORDER
                return _Keys(axis, TokenMap(*decoded), _as_tokens(layout))
        else:
            if len(tensor) > 1:
                continue
            if back.keys.numel() > MAX_SINGLE_KEYS or len(zeroed.axes(name)) > 1:
                break
            tokens = _tokens_of_single_keys(back)
            return tokens if isinstance(tokens, str) else _Keys(1, tokens, _as_tokens(layout))
    return "its keys cannot be assigned to patches, because each depends on many patches"


@dataclass(frozen=True, slots=True)
class _KeyCodes:
    """Backpropagates a code for each key to the tokens that feed the keys.

    Attributes:
        keys: (groups, keys) a linear function of the values of each key.
        tensor: the tensor that holds the tokens.
        layout: its layout.
        gradient: returns the gradient of a scalar with respect to a tensor, or None if it has none.
    """

    keys: Tensor
    tensor: Tensor
    layout: Layout
    gradient: Callable[[Tensor, Tensor], Tensor | None]

    def __call__(self, code: Tensor) -> Tensor | None:
        """(T, C) a `code` (groups, keys) backpropagated to each token; None if it reaches none."""
        grad = self.gradient((self.keys * code).sum(), self.tensor)
        return None if grad is None or not grad.any() else _token_rows(grad, self.layout)


def _decode(
    ones: Tensor, size: Sequence[int], back: Callable[[Tensor], Tensor | None]
) -> tuple[Tensor, Tensor] | None:
    """The index of the code (out of those of shape `size`) that reaches each row of `ones`.

    The codes 0, 1, 2, ... are sent back, and the index is read off as a ratio to `ones`. Random
    codes then check that each row receives the code of one index only.

    Args:
        ones: (n, m) the result of `back` for a code of ones.
        size: shape of a code.
        back: backpropagates a code to rows (n, m).

    Returns:
        Indices and row numbers of all rows that are not zero; None if a row receives several codes.
    """
    strength = ones.square().sum(1)
    rows = (strength > 1e-10 * strength.max()).nonzero()[:, 0]
    count = math.prod(size)
    received = back(torch.arange(count).to(ones).view(*size))
    product = ones.new_zeros(len(rows)) if received is None else (received * ones).sum(1)[rows]
    index = (product / strength[rows]).round().long()
    if (index < 0).any() or (index >= count).any():
        return None
    code = _noise(size, ones)
    received = back(code)
    if received is None:
        return None
    error = received[rows] - code.flatten()[index, None] * ones[rows]
    return (index, rows) if (error.norm(dim=1) <= 0.01 * ones[rows].norm(dim=1)).all() else None


def _tokens_of_single_keys(back: _KeyCodes) -> TokenMap | str:
    """The tokens that feed each of a few keys, where a token may feed several keys."""
    slots, tokens = [], []
    for slot in range(back.keys.numel()):
        code = torch.zeros_like(back.keys)
        code.view(-1)[slot] = 1
        received = back(code)
        if received is not None:
            size = received.norm(dim=1)
            tokens.append((size > 1e-5 * size.max()).nonzero()[:, 0])
            slots.append(torch.full_like(tokens[-1], slot))
    if min(map(len, tokens)) > 0.9 * back.layout.tokens:
        return "attention is among channels, not among patches"
    return TokenMap(torch.cat(slots), torch.cat(tokens))


def _find_queries(
    unchanged: _RecordedPass, name: str, axis: int, layout_of: LayoutOf
) -> tuple[TokenMap, Layout] | None:
    """The token that each query writes to, in the first tensor with a layout that it reaches."""
    leaf = unchanged.leaves[name]
    for output, layout in unchanged.after(name, layout_of):
        tokens = _token_rows(output * _noise(output.shape, output), layout).sum(1)

        def rows(code: Tensor, tokens: Tensor = tokens) -> Tensor | None:
            grad = unchanged.gradient((tokens * code[0]).sum(), leaf)
            if grad is None or not grad.any():
                return None
            return grouped(grad, 1, axis)[0].permute(1, 2, 0, 3).flatten(2).flatten(0, 1)

        ones = rows(torch.ones_like(tokens)[None])
        if ones is None:
            continue
        found = _decode(ones, (1, len(tokens)), rows)
        return None if found is None else (TokenMap(found[1], found[0]), _as_tokens(layout))
    return None


def _token_rows(tensor: Tensor, layout: Layout) -> Tensor:
    """(T, C) the tokens of one image, prefix tokens first; a leading head axis joins channels."""
    if layout.format == "NCHW":
        tensor = tensor.flatten(2).mT
    elif layout.format == "NHWC":
        tensor = tensor.flatten(1, 2)
    return tensor.transpose(0, 1).flatten(1)


def _as_tokens(layout: Layout) -> Layout:
    """The same layout with its cells as a sequence of tokens."""
    return replace(layout, format="NLC")


def _noise(size: Sequence[int], like: Tensor) -> Tensor:
    return torch.randn(tuple(size), generator=torch.Generator().manual_seed(0)).to(like)

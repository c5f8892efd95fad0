"""Which patches the rows and columns of attention maps stand for, told by gradients.

Attention in windows, over pooled keys or from a class token alone says nowhere which patches its
numbers belong to, and each family arranges them in its own way. So one pass is made in which
attention weights are all zero. Then a module's output depends on the weights as the values do on
the module's input, and nothing else interferes: weights are zero, so what follows is at rest. A few
backward passes, each with a code for every key, read at each patch the code of the key it feeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.models.layout_check import astray
from core.runtime.attention_capture import record_attention
from core.runtime.capture import record_all_tensors
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.model_call import call_model, differentiate
from core.types import Layout, TokenMap, grouped

BEFORE, AFTER = 200, 32
"""How many tensors before and after an attention map are looked at."""
FEW = 64
"""Up to so many keys, each is looked at alone where patches feed several."""

OWN_ORDER = "tokens are kept in an order of their own, not row by row"

LayoutOf = Callable[[Tensor], Layout | None]


@dataclass(frozen=True, slots=True)
class Located:
    """Where an attention map lies.

    Attributes:
        axis: which axis of the map counts the heads.
        keys: the tokens its columns stand for, laid out as `seen`.
        queries: the tokens its rows stand for, laid out as `looking`.
        seen: how the tokens that are looked at lie on the picture.
        query_layout: how the tokens that look do.
    """

    axis: int
    keys: TokenMap
    queries: TokenMap
    seen: Layout
    query_layout: Layout


def locate(
    model: nn.Module, x: Tensor, names: Collection[str], layout_of: LayoutOf, model_name: str
) -> dict[str, Located | str]:
    """Find out where the named attention maps lie, or say in words why that cannot be told.

    Args:
        model: it is left as it was.
        x: (1, C, H, W) any picture.
        names: maps by the name `record_attention` gives them.
        layout_of: how a tensor with one image lies on the picture; None if it does not.
        model_name: what the model is called in messages.
    """
    with evaluation_mode(model):
        still = _Pass.of(model, x, torch.zeros_like, model_name)
        seen = {name: _keys(still, name, layout_of) for name in names}
        moving = None
        found: dict[str, Located | str] = {}
        for name, keys in seen.items():
            if isinstance(keys, str):
                found[name] = keys
            elif keys.one_to_one and still.square(name):
                found[name] = Located(keys.axis, keys.places, keys.places, keys.layout, keys.layout)
            else:
                moving = moving or _Pass.of(model, x, torch.Tensor.detach, model_name)
                found[name] = _with_queries(keys, _queries(moving, name, keys.axis, layout_of))
    return found


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass with attention maps to differentiate by, and all tensors on the way.

    Attributes:
        leaves: the maps by name.
        began: how many tensors had passed when each was computed.
        passed: the tensors.
        x: the picture.
        model_name: what the model is called in messages.
    """

    leaves: Mapping[str, Tensor]
    began: Mapping[str, int]
    passed: Sequence[Tensor]
    x: Tensor
    model_name: str

    @classmethod
    def of(
        cls, model: nn.Module, x: Tensor, change: Callable[[Tensor], Tensor], model_name: str
    ) -> _Pass:
        """A pass with every map changed."""
        leaves: dict[str, Tensor] = {}
        began: dict[str, int] = {}

        def use(name: str, weights: Tensor) -> Tensor:
            began[name] = len(passed)
            leaves[name] = change(weights).clone().requires_grad_()
            return leaves[name]

        x = x.detach().clone().requires_grad_()
        with record_all_tensors(model) as passed, record_attention(model, use):
            call_model(model, x, name=model_name)
        return cls(leaves, began, passed, x, model_name)

    def square(self, name: str) -> bool:
        """Whether there are as many queries as keys."""
        return self.leaves[name].shape[-2] == self.leaves[name].shape[-1]

    def axes(self, name: str) -> Sequence[int]:
        """Which axis of the map may count the heads."""
        return (1, 2) if self.leaves[name].ndim == 5 else (1,)

    def before(self, name: str, layout_of: LayoutOf) -> Iterator[tuple[Tensor, Layout]]:
        """Tensors on the picture that passed before a map was computed, the latest first.

        Some families keep the heads where others keep the images.
        """
        end, heads = self.began[name], self.leaves[name].shape[1]
        for tensor in self.passed[max(0, end - BEFORE) : end][::-1]:
            layout = layout_of(tensor[:1]) if len(tensor) in (1, heads) else None
            if layout is not None and tensor.requires_grad:
                yield tensor, layout

    def after(self, name: str, layout_of: LayoutOf) -> Iterator[tuple[Tensor, Layout]]:
        """Tensors on the picture that passed afterwards, the first first."""
        start = self.began[name]
        for tensor in self.passed[start : start + AFTER]:
            layout = layout_of(tensor) if tensor.requires_grad else None
            if layout is not None:
                yield tensor, layout

    def in_order(self, tensor: Tensor, layout: Layout) -> bool:
        """Whether nothing speaks against tokens being counted row by row.

        Without attention most tokens draw on their own surroundings alone. Three are tried, and if
        the pixels that change one are close together, they must be where it is said to lie.
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
                for along, cells, place in (
                    (size.sum(1), height, row),
                    (size.sum(0), width, column),
                ):
                    if astray(along, cells, place + 0.5):
                        return False
        return True

    def gradient(self, output: Tensor, x: Tensor, *, create_graph: bool = False) -> Tensor | None:
        """The gradient of a scalar with respect to `x`, the graph kept; None if there is none."""
        (grad,) = differentiate(
            output,
            x,
            name=self.model_name,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
        return grad

    def read(self, name: str) -> Tensor | None:
        """Numbers, one for each weight of a map, each a linear function of one key's values."""
        leaf, start = self.leaves[name], self.began[name]
        for output in self.passed[start : start + AFTER]:
            if not output.requires_grad:
                continue
            mixed = (output * _noise(output.shape, output)).sum()
            grad = self.gradient(mixed, leaf, create_graph=True)
            if grad is not None and grad.requires_grad:
                return grad
        return None


@dataclass(frozen=True, slots=True)
class _Keys:
    """Which axis counts the heads, and the tokens that feed each key."""

    axis: int
    places: TokenMap
    layout: Layout

    @property
    def one_to_one(self) -> bool:
        """Whether each key is fed by one token alone."""
        return len(self.places.slot.unique()) == len(self.places.slot)


def _with_queries(keys: _Keys, found: tuple[TokenMap, Layout] | None) -> Located | str:
    if found is None:
        return "which patches its queries stand for cannot be told"
    return Located(keys.axis, keys.places, found[0], keys.layout, found[1])


def _keys(still: _Pass, name: str, layout_of: LayoutOf) -> _Keys | str:
    """The tokens that feed each key, from the latest tensor on the picture that feeds any."""
    read = still.read(name) if still.leaves[name].ndim in (4, 5) else None
    for tensor, layout in still.before(name, layout_of) if read is not None else ():
        for axis in still.axes(name):
            assert read is not None
            back = _Back(grouped(read, 1, axis)[0].sum((0, 2)), tensor, layout, still.gradient)
            whole = back(torch.ones_like(back.read))
            if whole is None:
                break
            number = _number(whole, back.read.shape, back)
            if number is not None:
                if not still.in_order(tensor, layout):
                    return OWN_ORDER
                return _Keys(axis, TokenMap(*number), _flat(layout))
        else:
            if len(tensor) > 1:
                continue
            if back.read.numel() > FEW or len(still.axes(name)) > 1:
                break
            places = _one_by_one(back)
            return places if isinstance(places, str) else _Keys(1, places, _flat(layout))
    return "which patches its keys stand for cannot be told: each draws on many"


@dataclass(frozen=True, slots=True)
class _Back:
    """Codes of keys, sent back to the tokens that feed them."""

    read: Tensor
    tensor: Tensor
    layout: Layout
    gradient: Callable[[Tensor, Tensor], Tensor | None]

    def __call__(self, code: Tensor) -> Tensor | None:
        """(T, C) what a `code` (groups, keys) becomes at each token; None if it reaches none."""
        grad = self.gradient((self.read * code).sum(), self.tensor)
        return None if grad is None or not grad.any() else _tokens(grad, self.layout)


def _number(
    whole: Tensor, size: Sequence[int], back: Callable[[Tensor], Tensor | None]
) -> tuple[Tensor, Tensor] | None:
    """The one place out of `size` (rows, columns) that each line of `whole` belongs to.

    Args:
        whole: (n, m) what a code of ones becomes.
        size: how many rows and columns a code has.
        back: what a code becomes, each line times the code of its place.

    Returns:
        Place and line numbers of all lines that are not zero; None if one has several places.
    """
    strength = whole.square().sum(1)
    lines = (strength > 1e-10 * strength.max()).nonzero()[:, 0]
    count = math.prod(size)
    sent = back(torch.arange(count).to(whole).view(*size))
    ratio = whole.new_zeros(len(lines)) if sent is None else (sent * whole).sum(1)[lines]
    place = (ratio / strength[lines]).round().long()
    if (place < 0).any() or (place >= count).any():
        return None
    code = _noise(size, whole)
    sent = back(code)
    if sent is None:
        return None
    off = sent[lines] - code.flatten()[place, None] * whole[lines]
    return (place, lines) if (off.norm(dim=1) <= 0.01 * whole[lines].norm(dim=1)).all() else None


def _one_by_one(back: _Back) -> TokenMap | str:
    """The tokens that feed each of a few keys, where a token may feed several."""
    slots, tokens = [], []
    for slot in range(back.read.numel()):
        code = torch.zeros_like(back.read)
        code.view(-1)[slot] = 1
        sent = back(code)
        if sent is not None:
            size = sent.norm(dim=1)
            tokens.append((size > 1e-5 * size.max()).nonzero()[:, 0])
            slots.append(torch.full_like(tokens[-1], slot))
    if min(map(len, tokens)) > 0.9 * back.layout.tokens:
        return "it attends among channels, each of which gathers from the whole picture"
    return TokenMap(torch.cat(slots), torch.cat(tokens))


def _queries(
    moving: _Pass, name: str, axis: int, layout_of: LayoutOf
) -> tuple[TokenMap, Layout] | None:
    """The token that each query writes to, in the first tensor on the picture that it reaches."""
    leaf = moving.leaves[name]
    for output, layout in moving.after(name, layout_of):
        tokens = _tokens(output * _noise(output.shape, output), layout).sum(1)

        def rows(code: Tensor, tokens: Tensor = tokens) -> Tensor | None:
            grad = moving.gradient((tokens * code[0]).sum(), leaf)
            if grad is None or not grad.any():
                return None
            return grouped(grad, 1, axis)[0].permute(1, 2, 0, 3).flatten(2).flatten(0, 1)

        whole = rows(torch.ones_like(tokens)[None])
        if whole is None:
            continue
        found = _number(whole, (1, len(tokens)), rows)
        return None if found is None else (TokenMap(found[1], found[0]), _flat(layout))
    return None


def _tokens(tensor: Tensor, layout: Layout) -> Tensor:
    """(T, C) the tokens of one image, prefix tokens first; heads in front join the channels."""
    if layout.format == "NCHW":
        tensor = tensor.flatten(2).mT
    elif layout.format == "NHWC":
        tensor = tensor.flatten(1, 2)
    return tensor.transpose(0, 1).flatten(1)


def _flat(layout: Layout) -> Layout:
    return replace(layout, format="NLC")


def _noise(size: Sequence[int], like: Tensor) -> Tensor:
    return torch.randn(tuple(size), generator=torch.Generator().manual_seed(0)).to(like)

"""What a model's layers are: how each output lies on the picture, where attention happens."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.models.attention_layout import OWN_ORDER, Located, locate
from core.models.layout_check import out_of_order
from core.runtime.attention_capture import record_attention
from core.runtime.capture import (
    modules_called_with,
    observe_outputs,
    record_and_detach,
    record_layers,
)
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.model_call import call_model, differentiate
from core.tasks.outputs import has_no_classes, read_logits
from core.types import AttentionLayer, Format, Layer, Layout

_CLASS_TOKEN = re.compile(r"(.*\.)?(cls|class)_token(_?\d+)?$")
"""What models call the parameter that a class token starts from."""
SMALLEST_GRID = 3
"""A map of fewer cells than this on a side says nothing about where."""


@dataclass(frozen=True)
class Probe:
    """What one pass of noise through a model told.

    Attributes:
        layers: every module by name, in order of execution.
        attention: every module that computes attention, by name, in order of execution.
        default_layer: where CAM methods look unless told otherwise; None if there is no such place.
        outputs: number of outputs (classes).
        differentiable: whether the output has a gradient with respect to the input.
        row_bytes: bytes of all layer outputs for one row.
        stem: the convolution that alone sees the picture; None if it is not one, or not alone.
    """

    layers: Mapping[str, Layer]
    attention: Mapping[str, AttentionLayer]
    default_layer: str | None
    outputs: int
    differentiable: bool
    row_bytes: int
    stem: str | None


def probe(model: nn.Module, input_size: tuple[int, int, int], name: str) -> Probe:
    """Send one picture of noise through `model` and look at everything that comes out.

    Args:
        model: any module from (1, C, H, W) to (1, N).
        input_size: (C, H, W).
        name: what the model is called in messages.

    Raises:
        ModelError: the model does not give one row of scores per image.
        ModelFailure: the model raised an error.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.randn((1, *input_size), generator=torch.Generator().manual_seed(0))
    x = noise.to(like.device, like.dtype).requires_grad_()
    seen: dict[str, Tensor] = {}
    order: dict[str, Any] = {}

    def see(layer: str, output: Any) -> None:
        order.pop(layer, None)
        order[layer] = output if isinstance(output, Tensor) else None
        if isinstance(output, Tensor):
            seen[layer] = output

    with (
        evaluation_mode(model),
        observe_outputs(model, see),
        modules_called_with(model, x) as first_modules,
        record_attention(model) as maps,
    ):
        logits = read_logits(call_model(model, x, name=name), name, features=has_no_classes(model))
    modules = dict(model.named_modules())
    stages = stage_names(model)
    guess = _Guess(model, input_size[1:])
    layers = {
        n: Layer(n, type(modules[n]).__name__, guess.layout(n, seen.get(n)), n in stages)
        for n in order
    }
    layouts = {n: layer.layout for n, layer in layers.items() if layer.layout is not None}
    if any(layout.format == "NLC" for layout in layouts.values()):
        for n in out_of_order(model, x.detach(), layouts, name):
            layers[n] = replace(layers[n], layout=None)
    sizes = [t.nelement() * t.element_size() for n, t in seen.items() if _is_leaf(modules[n])]
    return Probe(
        layers=layers,
        attention=_attention(model, x.detach(), maps, layers.values(), guess, name),
        default_layer=_default_layer(model, layers, x.detach(), name),
        outputs=logits.shape[1],
        differentiable=logits.requires_grad,
        row_bytes=sum(sizes),
        stem=_stem(model, x, first_modules, name),
    )


def _stem(model: nn.Module, x: Tensor, first_modules: Sequence[str], model_name: str) -> str | None:
    """The convolution among the modules that get `x` itself, if nothing else depends on `x`."""
    stems = [name for name in first_modules if isinstance(model.get_submodule(name), nn.Conv2d)]
    if len(stems) != 1:
        return None
    with evaluation_mode(model), record_and_detach(model, stems):
        raw = call_model(model, x, name=model_name)
        output = read_logits(raw, model_name, features=has_no_classes(model))
    return None if output.requires_grad else stems[0]


def stage_names(model: nn.Module) -> list[str]:
    """The modules that close the model's stages, from timm's `feature_info`; else its children."""
    return _said_stages(model) or [n for n, _ in model.named_children()]


def _said_stages(model: nn.Module) -> list[str]:
    known = dict(model.named_modules())
    prefix, info = _feature_info(model)
    names = [f"{prefix}{entry.get('module')}" for entry in info]
    return [n for n in names if n in known]


class _Guess:
    """Reads layouts off shapes, given what the model says of itself."""

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        self.size = size
        self.prefer: Format = "NHWC" if _said(model, "output_fmt")[1] == "NHWC" else "NCHW"
        prefix = _said(model, "num_prefix_tokens")[1]
        self.prefixes = [prefix] if isinstance(prefix, int) and prefix else []
        self.class_token = any(_CLASS_TOKEN.match(n) for n, _ in model.named_parameters())
        self.prefixes += [0, 1] if self.class_token or not self.prefixes else [0]
        self.strides = _strides(model)

    def layout(self, name: str, output: Tensor | None) -> Layout | None:
        """How an output of batch size one lies on the picture; None if it does not."""
        if output is None or output.shape[0] != 1 or not output.is_floating_point():
            return None
        if output.ndim == 4:
            return self._image(output)
        if output.ndim == 3:
            return self._tokens(output.shape[1], output.shape[2])
        return None

    def _image(self, output: Tensor) -> Layout | None:
        _, a, b, c = output.shape
        found: dict[Format, Layout] = {}
        if self._is_grid(b, c):
            found["NCHW"] = Layout("NCHW", (b, c), a)
        if self._is_grid(a, b):
            found["NHWC"] = Layout("NHWC", (a, b), c)
        return found.get(self.prefer) or next(iter(found.values()), None)

    def _tokens(self, tokens: int, channels: int) -> Layout | None:
        for prefix in self.prefixes:
            grid = self._grid_of(tokens - prefix)
            if grid is not None:
                return Layout("NLC", grid, channels, prefix, bool(prefix) and self.class_token)
        return None

    def _grid_of(self, cells: int) -> tuple[int, int] | None:
        if cells < 1:
            return None
        height = round(math.sqrt(cells * self.size[0] / self.size[1]))
        width = cells // height if height else 0
        fits = height * width == cells and self._is_grid(height, width)
        if self.strides and fits:
            H, W = self.size
            fits = any(abs(height - H / s) < 1 and abs(width - W / s) < 1 for s in self.strides)
        return (height, width) if fits else None

    def _is_grid(self, height: int, width: int) -> bool:
        """Whether a grid is the picture seen at one stride, give or take rounding at the rim."""
        H, W = self.size
        if height > H or width > W or min(height, width) < 2:
            return False
        return abs(height * W - width * H) < max(H, W)

    def whole(self, name: str, weights: Tensor, layers: Iterable[Layer]) -> AttentionLayer | None:
        """The layer whose map is (1, heads, T, T) over all tokens of the picture; None if not so.

        Its tokens must be those of some layer: attention among channels has square maps, too.
        """
        heads, (queries, keys) = weights.shape[1], weights.shape[-2:]
        if weights.ndim != 4 or weights.shape[0] != 1 or queries != keys:
            return None
        layout = self._tokens(queries, heads)
        seen = {(layer.layout.grid, layer.layout.prefix) for layer in layers if layer.layout}
        if (
            layout is None
            or min(layout.grid) < SMALLEST_GRID
            or (layout.grid, layout.prefix) not in seen
        ):
            return None
        return AttentionLayer(name, heads, queries, layout)


def _attention(
    model: nn.Module,
    x: Tensor,
    maps: Mapping[str, Tensor],
    layers: Iterable[Layer],
    guess: _Guess,
    model_name: str,
) -> dict[str, AttentionLayer]:
    """What the recorded maps (..., queries, keys) are maps of."""
    layers = list(layers)
    found = {name: guess.whole(name, weights, layers) for name, weights in maps.items()}
    others = [name for name, layer in found.items() if layer is None]
    located = locate(model, x, others, lambda t: guess.layout("", t), model_name) if others else {}
    if OWN_ORDER in located.values():
        return {n: _grouped_layer(n, weights, OWN_ORDER) for n, weights in maps.items()}
    return {
        name: layer or _grouped_layer(name, maps[name], located[name])
        for name, layer in found.items()
    }


def _grouped_layer(name: str, weights: Tensor, found: Located | str) -> AttentionLayer:
    queries = weights.shape[-2]
    if isinstance(found, str):
        return AttentionLayer(name, weights.shape[1], queries, None, found)
    heads = weights.shape[found.axis]
    if min(*found.seen.grid, *found.query_layout.grid) < SMALLEST_GRID:
        reason = f"patches lie on a grid of {found.seen.grid[0]}x{found.seen.grid[1]} only"
        return AttentionLayer(name, heads, queries, None, reason)
    same = (found.query_layout.grid, found.query_layout.prefix) == (
        found.seen.grid,
        found.seen.prefix,
    )
    return AttentionLayer(
        name,
        heads,
        queries,
        replace(found.seen, channels=heads),
        keys=found.keys,
        queries=found.queries,
        query_layout=None if same else found.query_layout,
        axis=found.axis,
    )


def _strides(model: nn.Module) -> set[float]:
    """How many pixels apart tokens may lie, as far as the model says."""
    return {float(e["reduction"]) for e in _feature_info(model)[1] if e.get("reduction")}


def _feature_info(model: nn.Module) -> tuple[str, list[dict[str, Any]]]:
    """Timm's description of the stages, and what to put before the module names in it."""
    prefix, info = _said(model, "feature_info")
    entries = getattr(info, "info", info)
    return prefix, list(entries) if isinstance(entries, (list, tuple)) else []


def _said(model: nn.Module, attribute: str) -> tuple[str, Any]:
    """What a model, or the model it wraps, says of itself, and where: ``("inner.", value)``."""
    for name, module in model.named_modules():
        value = getattr(module, attribute, None)
        if value is not None:
            return f"{name}." if name else "", value
    return "", None


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _default_layer(
    model: nn.Module, layers: Mapping[str, Layer], x: Tensor, model_name: str
) -> str | None:
    """The deepest layer that still says where: spatial, and every cell of it matters to the output.

    Candidates are stages, top-level modules and normalisations. In a transformer that reads its
    answer off a class token, patch tokens of the last block's output have no gradient at all, and
    the search ends at the normalisation before the last attention, the customary place.
    """
    modules = dict(model.named_modules())
    for batch in _candidates(modules, layers, _said_stages(model)):
        with evaluation_mode(model), record_layers(model, batch) as outputs:
            response = _response(model, x, model_name)
            if not response.requires_grad:
                continue
            reached = [n for n in batch if n in outputs]  # a second classifier may be left out here
            if not reached:
                continue
            grads = differentiate(
                response,
                [outputs[n] for n in reached],
                name=model_name,
                allow_unused=True,
                materialize_grads=True,
            )
        for candidate, grad in zip(reached, grads, strict=True):
            layout = layers[candidate].layout
            assert layout is not None
            live = layout.to_nchw(grad).abs().sum(1) > 0
            if live.float().mean() > 0.5:
                return candidate
    return None


def _response(model: Any, x: Tensor, model_name: str) -> Tensor:
    """A scalar that depends on all the model concludes, before the classifier where timm lets us.

    Classifiers often start from zero weights, and then no gradient passes them.
    """
    parted = hasattr(model, "forward_features") and hasattr(model, "forward_head")
    if parted and not has_no_classes(model):
        features = call_model(model.forward_features, x, name=model_name)
        out = call_model(model.forward_head, features, name=model_name, pre_logits=True)
    else:
        out = call_model(model, x, name=model_name)
    parts = out if isinstance(out, (tuple, list)) else [out]
    generator = torch.Generator().manual_seed(1)
    mixed = [(p * torch.randn(p.shape, generator=generator).to(p)).sum() for p in parts]
    return torch.stack(mixed).sum()


def _candidates(
    modules: Mapping[str, nn.Module],
    layers: Mapping[str, Layer],
    said: Collection[str],
    size: int = 8,
) -> Iterator[list[str]]:
    """Names worth trying as default layer, deepest first, a few at a time.

    A module without parameters (dropout, pooling) is none, unless timm names it in `said`: the last
    stage may end in an activation or an identity.
    """
    stages = [layer.name for layer in layers.values() if layer.stage]
    names = [
        n
        for n, layer in reversed(list(layers.items()))
        if layer.layout is not None
        and min(layer.layout.grid) >= SMALLEST_GRID
        and (n in said or next(modules[n].parameters(), None) is not None)
        and not any(stage.startswith(f"{n}.") for stage in stages)
        and (layer.stage or "." not in n or "norm" in layer.kind.lower())
    ]
    for i in range(0, len(names), size):
        yield names[i : i + size]

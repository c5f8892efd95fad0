"""Finds a model's layers: the layout of each output, and the attention layers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.models.attention_layout import UNKNOWN_ORDER, AttentionMapLayout, find_attention_layouts
from core.models.layout_check import out_of_order
from core.runtime.attention_capture import record_attention
from core.runtime.capture import (
    modules_called_with,
    observe_outputs,
    record_and_detach,
    record_layers,
)
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.forward import Ending, Forward
from core.runtime.model_call import call_model, differentiate
from core.types import AttentionLayer, Format, Layer, Layout

_CLASS_TOKEN = re.compile(r"(.*\.)?(cls|class)_token(_?\d+)?$")
"""Names of the parameter that holds a class token."""
SMALLEST_GRID = 3
"""Smallest height and width of a grid, in cells, that is useful for localisation."""


@dataclass(frozen=True)
class Probe:
    """What one forward pass of a noise image shows about a model.

    Attributes:
        layers: every module by name, in order of execution.
        attention: every module that computes attention, by name, in order of execution.
        default_layer: the layer that CAM methods use by default; None if no layer fits.
        outputs: number of outputs (classes).
        ending: the softmax or sigmoid that the outputs come from; None if from neither.
        sums_to_one: whether the outputs are not negative and add up to 1.
        differentiable: whether the output has a gradient with respect to the input.
        row_bytes: bytes of all layer outputs for one row.
        stem: name of the convolution that is the only module to read the picture; None if there is
            no such convolution.
    """

    layers: Mapping[str, Layer]
    attention: Mapping[str, AttentionLayer]
    default_layer: str | None
    outputs: int
    ending: Ending | None
    sums_to_one: bool
    differentiable: bool
    row_bytes: int
    stem: str | None


def probe(
    model: nn.Module,
    input_size: tuple[int, int, int],
    name: str,
    forward: Forward | None = None,
) -> Probe:
    """Runs one noise image through a model and records the outputs of all modules.

    Args:
        model: any module.
        input_size: (C, H, W).
        name: the model's name, for error messages.
        forward: how the model is called and its scores are found; by default with the image alone.

    Raises:
        ModelError: the model does not give one row of scores per image.
        ModelFailure: the model raised an error.
    """
    forward = forward or Forward(model, name)
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
        scores = forward(x)
    with evaluation_mode(model), torch.no_grad():
        ending = forward.ending(x)
    modules = dict(model.named_modules())
    stages = stage_names(model)
    reader = LayoutReader(model, input_size[1:])
    layers = {
        n: Layer(n, type(modules[n]).__name__, reader.layout(n, seen.get(n)), n in stages)
        for n in order
    }
    layouts = {n: layer.layout for n, layer in layers.items() if layer.layout is not None}
    if any(layout.format == "NLC" for layout in layouts.values()):
        for n in out_of_order(model, x.detach(), layouts, forward):
            layers[n] = replace(layers[n], layout=None)
    sizes = [t.nelement() * t.element_size() for n, t in seen.items() if _is_leaf(modules[n])]
    return Probe(
        layers=layers,
        attention=_attention(model, x.detach(), maps, layers.values(), reader, forward),
        default_layer=_default_layer(model, layers, x.detach(), forward),
        outputs=scores.shape[1],
        ending=ending,
        sums_to_one=_sums_to_one(scores.detach()),
        differentiable=scores.requires_grad,
        row_bytes=sum(sizes),
        stem=_stem(model, x, first_modules, forward),
    )


def _sums_to_one(scores: Tensor) -> bool:
    """Whether scores (n, N) of several classes can be probabilities of exclusive classes."""
    several, total = scores.shape[1] > 1, scores.float().sum(1)
    return several and bool((scores >= 0).all()) and bool(((total - 1).abs() < 1e-3).all())


def _stem(
    model: nn.Module, x: Tensor, first_modules: Sequence[str], forward: Forward
) -> str | None:
    """The convolution that reads `x`, if the output depends on `x` through it only; else None."""
    stems = [name for name in first_modules if isinstance(model.get_submodule(name), nn.Conv2d)]
    if len(stems) != 1:
        return None
    with evaluation_mode(model), record_and_detach(model, stems):
        output = forward(x)
    return None if output.requires_grad else stems[0]


def stage_names(model: nn.Module) -> list[str]:
    """Names of the last modules of all stages, from timm's `feature_info`; else its children."""
    return _declared_stages(model) or [n for n, _ in model.named_children()]


def _declared_stages(model: nn.Module) -> list[str]:
    """The stages in timm's `feature_info`; empty if there is none."""
    known = dict(model.named_modules())
    prefix, info = _feature_info(model)
    names = [f"{prefix}{entry.get('module')}" for entry in info]
    return [n for n in names if n in known]


class LayoutReader:
    """Infers layouts from the shapes of outputs and the attributes of the model.

    Args:
        model: the model.
        size: height and width of the input, in pixels.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        self.size = size
        self.prefer: Format = (
            "NHWC" if _find_attribute(model, "output_fmt")[1] == "NHWC" else "NCHW"
        )
        prefix = _find_attribute(model, "num_prefix_tokens")[1]
        self.prefixes = [prefix] if isinstance(prefix, int) and prefix else []
        self.class_token = any(_CLASS_TOKEN.match(n) for n, _ in model.named_parameters())
        self.prefixes += [0, 1] if self.class_token or not self.prefixes else [0]
        self.strides = _strides(model)

    def layout(self, name: str, output: Tensor | None) -> Layout | None:
        """The layout of an output of batch size 1; None if it does not lie on a grid."""
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
        """Whether a grid has the proportions of the input, apart from rounding at the border."""
        H, W = self.size
        if height > H or width > W or min(height, width) < 2:
            return False
        return abs(height * W - width * H) < max(H, W)

    def global_attention(
        self, name: str, weights: Tensor, layers: Iterable[Layer]
    ) -> AttentionLayer | None:
        """The attention layer whose map is (1, heads, T, T) over all tokens; None if it is not.

        Its tokens must be those of some layer, because channel attention has square maps too.
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
    reader: LayoutReader,
    forward: Forward,
) -> dict[str, AttentionLayer]:
    """The attention layers that the recorded maps (..., queries, keys) belong to."""
    layers = list(layers)
    found = {name: reader.global_attention(name, weights, layers) for name, weights in maps.items()}
    others = [name for name, layer in found.items() if layer is None]
    layouts: dict[str, AttentionMapLayout | str] = {}
    if others:
        layouts = find_attention_layouts(model, x, others, lambda t: reader.layout("", t), forward)
    if UNKNOWN_ORDER in layouts.values():
        return {n: _grouped_layer(n, weights, UNKNOWN_ORDER) for n, weights in maps.items()}
    return {
        name: layer or _grouped_layer(name, maps[name], layouts[name])
        for name, layer in found.items()
    }


def _grouped_layer(name: str, weights: Tensor, found: AttentionMapLayout | str) -> AttentionLayer:
    """An attention layer with grouped maps; `found` is their layout or why it is unknown."""
    queries = weights.shape[-2]
    if isinstance(found, str):
        return AttentionLayer(name, weights.shape[1], queries, None, found)
    heads = weights.shape[found.axis]
    if min(*found.key_layout.grid, *found.query_layout.grid) < SMALLEST_GRID:
        reason = (
            f"the grid of patches is only {found.key_layout.grid[0]}x{found.key_layout.grid[1]}"
        )
        return AttentionLayer(name, heads, queries, None, reason)
    same = (found.query_layout.grid, found.query_layout.prefix) == (
        found.key_layout.grid,
        found.key_layout.prefix,
    )
    return AttentionLayer(
        name,
        heads,
        queries,
        replace(found.key_layout, channels=heads),
        keys=found.keys,
        queries=found.queries,
        query_layout=None if same else found.query_layout,
        axis=found.axis,
    )


def _strides(model: nn.Module) -> set[float]:
    """The strides of the model's stages in pixels, from timm's `feature_info`."""
    return {float(e["reduction"]) for e in _feature_info(model)[1] if e.get("reduction")}


def _feature_info(model: nn.Module) -> tuple[str, list[dict[str, Any]]]:
    """Timm's description of the stages, and the prefix of the module names in it."""
    prefix, info = _find_attribute(model, "feature_info")
    entries = getattr(info, "info", info)
    return prefix, list(entries) if isinstance(entries, (list, tuple)) else []


def _find_attribute(model: nn.Module, attribute: str) -> tuple[str, Any]:
    """An attribute of the model or of a model inside it, with its prefix: ``("inner.", value)``."""
    for name, module in model.named_modules():
        value = getattr(module, attribute, None)
        if value is not None:
            return f"{name}." if name else "", value
    return "", None


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _default_layer(
    model: nn.Module, layers: Mapping[str, Layer], x: Tensor, forward: Forward
) -> str | None:
    """The deepest layer on a grid for which more than half of the cells have a gradient.

    Candidates are stages, top-level modules and normalisations. In a transformer that classifies by
    a class token, the patch tokens of the last block's output have no gradient. The search then
    ends at the normalisation before the last attention, which is the usual choice.
    """
    modules = dict(model.named_modules())
    for batch in _candidates(modules, layers, _declared_stages(model)):
        with evaluation_mode(model), record_layers(model, batch) as outputs:
            response = _response(model, x, forward)
            if not response.requires_grad:
                continue
            reached = [n for n in batch if n in outputs]  # a second classifier may be left out here
            if not reached:
                continue
            grads = differentiate(
                response,
                [outputs[n] for n in reached],
                name=forward.name,
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


def _response(model: Any, x: Tensor, forward: Forward) -> Tensor:
    """A scalar that depends on all features before the classifier, or else on all outputs.

    The classifier is skipped where timm allows it, because classifiers are often initialised with
    zero weights, which give no gradient.
    """
    parted = hasattr(model, "forward_features") and hasattr(model, "forward_head")
    if parted and not forward.features and not forward.kwargs:
        features = call_model(model.forward_features, x, name=forward.name)
        out = call_model(model.forward_head, features, name=forward.name, pre_logits=True)
    else:
        out = forward(x)
    parts = out if isinstance(out, (tuple, list)) else [out]
    generator = torch.Generator().manual_seed(1)
    mixed = [(p * torch.randn(p.shape, generator=generator).to(p)).sum() for p in parts]
    return torch.stack(mixed).sum()


def _candidates(
    modules: Mapping[str, nn.Module],
    layers: Mapping[str, Layer],
    declared: Collection[str],
    size: int = 8,
) -> Iterator[list[str]]:
    """Candidates for the default layer, deepest first, a few at a time.

    Modules without parameters (dropout, pooling) are excluded unless timm names them in `declared`,
    because the last stage may end in an activation or an identity.
    """
    stages = [layer.name for layer in layers.values() if layer.stage]
    names = [
        n
        for n, layer in reversed(list(layers.items()))
        if layer.layout is not None
        and min(layer.layout.grid) >= SMALLEST_GRID
        and (n in declared or next(modules[n].parameters(), None) is not None)
        and not any(stage.startswith(f"{n}.") for stage in stages)
        and (layer.stage or "." not in n or "norm" in layer.kind.lower())
    ]
    for i in range(0, len(names), size):
        yield names[i : i + size]

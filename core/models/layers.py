"""Finds a model's layers: the layout of each output, and the attention layers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.models.attention_layout import UNKNOWN_ORDER, AttentionMapLayout, find_attention_layouts
from core.models.default_layer import (
    SMALLEST_GRID,
    declared_stages,
    feature_info,
    find_attribute,
    find_default_layer,
    top_level,
)
from core.models.layout_check import misplaced_calls
from core.models.module_calls import CallChoice, CallId, CallLog, choose_calls
from core.runtime.attention_capture import record_attention
from core.runtime.autograd_graph import has_gradient
from core.runtime.capture import (
    CallPath,
    modules_called_with,
    observe_calls,
    record_and_detach,
)
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.forward import Ending, Forward
from core.types import AttentionLayer, Format, Layer, Layout

_CLASS_TOKEN = re.compile(r"(.*\.)?(cls|class)_token(_?\d+)?$")
"""Names of the parameter that holds a class token."""


@dataclass(frozen=True)
class Probe:
    """What one forward pass of a noise image shows about a model.

    Attributes:
        layers: every module by name, in order of execution.
        attention: every module that computes attention, by name, in order of execution.
        default_layer: the layer that CAM methods use by default; None if no layer fits.
        outputs: number of outputs (classes).
        dense: whether the outputs are a map of scores for each class.
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
    dense: bool
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
        ModelError: the model does not give one row of scores per image, nor maps of scores.
        ModelFailure: the model raised an error.
    """
    forward = forward or Forward(model, name)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.randn((1, *input_size), generator=torch.Generator().manual_seed(0))
    x = noise.to(like.device, like.dtype).requires_grad_()
    reader = LayoutReader(model, input_size[1:])
    log = CallLog(reader.layout_or_cell)
    within: dict[str, CallPath] = {}

    def see_map(layer: str, weights: Tensor) -> Tensor:
        within[layer] = tuple(running)
        return weights

    with (
        evaluation_mode(model),
        observe_calls(model, log.before, log.after) as running,
        modules_called_with(model, x) as first_modules,
        record_attention(model, see_map) as maps,
    ):
        scores, ending = forward.with_ending(x)
    misplaced = _misplaced(model, x.detach(), log, reader.layout, forward)
    choice = choose_calls(log, misplaced)
    layers = _layers(model, log, choice, misplaced)
    maps = {n: weights for n, weights in maps.items() if choice.kept.issuperset(within[n])}
    leaves = {n for n, module in model.named_modules() if _is_leaf(module)}
    dense = scores.ndim == 4
    return Probe(
        layers=layers,
        attention=_attention(model, x.detach(), maps, layers.values(), reader, forward),
        default_layer=find_default_layer(
            model, layers, x.detach(), forward, scores.shape[1] if dense else None
        ),
        outputs=scores.shape[1],
        dense=dense,
        ending=ending,
        sums_to_one=_sums_to_one(forward, x.detach(), scores.detach()),
        differentiable=has_gradient(scores, x),
        row_bytes=sum(call.nbytes for (n, _), call in log.done.items() if n in leaves),
        stem=_stem(model, x, [n for n in first_modules if (n, 1) not in log.begun], forward),
    )


def _sums_to_one(forward: Forward, x: Tensor, scores: Tensor) -> bool:
    """Whether a model's outputs are probabilities of exclusive classes, by two pictures.

    Args:
        forward: how the model is called.
        x: (1, C, H, W) a picture.
        scores: (1, N) the outputs for it, or (1, N, h, w).
    """

    def adds_up(scores: Tensor) -> bool:
        several, total = scores.shape[1] > 1, scores.double().sum(1)
        rounding = scores.shape[1] * torch.finfo(scores.dtype).eps
        fits = (scores >= 0).all() and ((total - 1).abs() <= rounding).all()
        return several and bool(fits)

    if not adds_up(scores):
        return False
    with evaluation_mode(forward.model), torch.no_grad():
        return adds_up(forward(-2 * x))


MISPLACED = "sees the picture mirrored, turned, cropped or in another order"
"""Why a layer whose output lies on a grid is not offered."""


def _misplaced(
    model: nn.Module,
    x: Tensor,
    log: CallLog,
    layout_of: Callable[[Tensor], Layout | None],
    forward: Forward,
) -> set[CallId]:
    """The calls that do not see the picture as it is; see `misplaced_calls`."""
    if not any(call.layout is not None or call.cells for call in log.begun.values()):
        return set()
    return misplaced_calls(model, x, layout_of, forward)


def _layers(
    model: nn.Module, log: CallLog, choice: CallChoice, misplaced: Collection[CallId]
) -> dict[str, Layer]:
    """Every module that ran, in the order in which the calls ended that its output is taken of."""
    modules = dict(model.named_modules())
    layouts: dict[str, list[Layout | None]] = {}
    for name, index in log.begun:
        call = log.done.get((name, index))
        fits = call is not None and (name, index) not in misplaced
        layouts.setdefault(name, []).append(call.layout if call is not None and fits else None)
    layers = {}
    for (name, index), call in log.done.items():
        if choice.chosen[name] != index:
            continue
        layout = layouts[name][index]
        layers[name] = Layer(
            name,
            type(modules[name]).__name__,
            layout,
            call=index,
            layouts=tuple(layouts[name]),
            reason=MISPLACED if layout is None and call.layout is not None else "",
        )
    stages = declared_stages(model) or top_level(model, layers)
    return {n: replace(layer, stage=n in stages) for n, layer in layers.items()}


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


class LayoutReader:
    """Infers layouts from the shapes of outputs and the attributes of the model.

    Args:
        model: the model.
        size: height and width of the input, in pixels.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        self.size = size
        self.prefer: Format = "NHWC" if find_attribute(model, "output_fmt")[1] == "NHWC" else "NCHW"
        prefix = find_attribute(model, "num_prefix_tokens")[1]
        self.prefixes = [prefix] if isinstance(prefix, int) and prefix else []
        self.class_token = any(_CLASS_TOKEN.match(n) for n, _ in model.named_parameters())
        self.prefixes += [0, 1] if self.class_token or not self.prefixes else [0]
        self.strides = _strides(model)

    def layout(self, output: Tensor) -> Layout | None:
        """The layout of an output of batch size 1; None if it does not lie on a grid."""
        if output.ndim < 3 or output.shape[0] != 1 or not output.is_floating_point():
            return None
        if output.ndim == 4:
            return self._image(output)
        if output.ndim == 3:
            return self._tokens(output.shape[1], output.shape[2])
        return None

    def layout_or_cell(self, output: Tensor) -> Layout | None:
        """Like `layout`, but an image of one pixel (1, K, 1, 1) counts as a grid of one cell."""
        if output.ndim == 4 and output.shape[0] == 1 and output.shape[2:] == (1, 1):
            return Layout("NCHW", (1, 1), output.shape[1]) if output.is_floating_point() else None
        return self.layout(output)

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
        layouts = find_attention_layouts(model, x, others, reader.layout, forward)
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
    return {float(e["reduction"]) for e in feature_info(model)[1] if e.get("reduction")}


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None

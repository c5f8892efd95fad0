"""Chooses the layer that CAM methods use by default, however deep a model is wrapped in others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.runtime.autograd_graph import is_differentiable
from core.runtime.capture import change_layer, record_inputs, record_layers
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.forward import Forward
from core.runtime.model_call import call_model, differentiate
from core.types import Layer

SMALLEST_GRID = 3
"""Smallest height and width of a grid, in cells, that is useful for localisation."""


def find_default_layer(
    model: nn.Module,
    layers: Mapping[str, Layer],
    x: Tensor,
    forward: Forward,
    maps: int | None = None,
) -> str | None:
    """The deepest layer on a grid for which more than half of the cells have a gradient.

    Candidates are stages, top-level modules and normalisations. In a transformer that classifies by
    a class token, the patch tokens of the last block's output have no gradient. The search then
    ends at the normalisation before the last attention, which is the usual choice. Where the output
    has no gradient at all, it is the deepest layer whose cells the output changes with.

    A segmenter's last layers are as fine as its outputs, and what they hold at a place is little
    more than the prediction there. So its default is the deepest layer on the coarsest grid, which
    is where its encoder ends.

    Args:
        model: the model; it is left unchanged.
        layers: every module by name, in order of execution.
        x: (1, C, H, W) any picture.
        forward: how the model is called.
        maps: of a segmenter, the number of its outputs; None of any other model.
    """
    for batch in _candidates(model, layers, maps):
        names = [layers[name] for name in batch]
        found = _live_by_gradient(model, names, x, forward)
        if found is None:
            found = _live_by_change(model, names, x, forward)
        if found:
            return found
    return None


def _live_by_gradient(
    model: nn.Module, layers: Sequence[Layer], x: Tensor, forward: Forward
) -> str | None:
    """The first layer that the gradient reaches; empty for none, None if there is no gradient."""
    names = [layer.name for layer in layers]
    calls = {layer.name: layer.call for layer in layers}
    with evaluation_mode(model), record_layers(model, names, calls) as outputs:
        response = _response(model, x, forward)
        reached = [layer for layer in layers if layer.name in outputs]
        if not is_differentiable(response):
            return None
        if not reached:
            return ""
        grads = differentiate(
            response,
            [outputs[layer.name] for layer in reached],
            name=forward.name,
            allow_unused=True,
            materialize_grads=True,
        )
    for layer, grad in zip(reached, grads, strict=True):
        assert layer.layout is not None
        live = (layer.layout.to_nchw(grad) != 0).any(1)  # NaN too, which is told later
        if live.float().mean() > 0.5:
            return layer.name
    return ""


def _live_by_change(
    model: nn.Module, layers: Sequence[Layer], x: Tensor, forward: Forward
) -> str | None:
    """The first layer that the output changes with, once its cells are disturbed."""
    with evaluation_mode(model), torch.no_grad():
        unchanged = _response(model, x, forward)
        for layer in layers:
            with change_layer(model, layer.name, layer.call, _disturbed(layer)):
                if not torch.equal(_response(model, x, forward), unchanged):
                    return layer.name
    return None


def _disturbed(layer: Layer) -> Any:
    """A function that adds noise to the cells of a layer's output, prefix tokens left out."""

    def change(output: Tensor) -> Tensor:
        assert layer.layout is not None
        output = output.clone()
        cells = layer.layout.to_nchw(output)
        noise = torch.randn(cells.shape, generator=torch.Generator().manual_seed(0)).to(cells)
        cells += noise * cells.std()
        return output

    return change


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
        with record_inputs(model, _classifiers(model)) as features:
            scores = forward(x)
        out = features or scores
    parts = out if isinstance(out, (tuple, list)) else [out]
    generator = torch.Generator().manual_seed(1)
    mixed = [(p * torch.randn(p.shape, generator=generator).to(p)).sum() for p in parts]
    return torch.stack(mixed).sum()


def _classifiers(model: nn.Module) -> list[str]:
    """The names of the classifiers of timm models within other modules."""
    names = {id(module): name for name, module in model.named_modules()}
    found = []
    for name, module in model.named_modules():
        get = getattr(module, "get_classifier", None)
        if name and callable(get):
            heads = get()
            heads = heads if isinstance(heads, (tuple, list)) else [heads]
            found += [names[id(head)] for head in heads if id(head) in names]
    return found


def _candidates(
    model: nn.Module, layers: Mapping[str, Layer], maps: int | None, size: int = 8
) -> Iterator[list[str]]:
    """Candidates for the default layer, deepest first, a few at a time.

    Modules without parameters (dropout, pooling) are excluded unless timm declares them as stages,
    because the last stage may end in an activation or an identity.
    """
    modules, declared = dict(model.named_modules()), declared_stages(model)
    top = top_level(model, layers)
    stages = [layer.name for layer in layers.values() if layer.stage]
    names = [
        n
        for n, layer in reversed(list(layers.items()))
        if _is_on_grid(layer)
        and (n in declared or next(modules[n].parameters(), None) is not None)
        and not any(stage.startswith(f"{n}.") for stage in stages)
        and (layer.stage or n in top or "norm" in layer.kind.lower())
    ]
    if maps is not None:
        names = sorted((n for n in names if _channels(layers[n]) != maps), key=_cells(layers))
    for i in range(0, len(names), size):
        yield names[i : i + size]


def _channels(layer: Layer) -> int:
    return layer.layout.channels if layer.layout else 0


def _cells(layers: Mapping[str, Layer]) -> Callable[[str], int]:
    """A function that gives how many cells a layer's grid has."""

    def count(name: str) -> int:
        layout = layers[name].layout
        return math.prod(layout.grid) if layout else 0

    return count


# -- stages ---------------------------------------------------------------------------------------


def declared_stages(model: nn.Module) -> list[str]:
    """The stages in timm's `feature_info`; empty if there is none."""
    known = dict(model.named_modules())
    prefix, info = feature_info(model)
    names = [f"{prefix}{entry.get('module')}" for entry in info]
    return [n for n in names if n in known]


def top_level(model: nn.Module, layers: Mapping[str, Layer]) -> list[str]:
    """The modules that a model is made of at the first level where their outputs lie on grids.

    A child whose own output lies on no grid, but which holds most of what lies on grids and has
    parameters, is a model within this one (in a wrapper, or before another classifier), and its
    children stand in its place.
    """
    parts = [n for n, layer in layers.items() if _is_on_grid(layer)]
    modules = dict(model.named_modules())
    parts = [n for n in parts if next(modules[n].parameters(), None) is not None]
    found = [name for name, _ in model.named_children()]
    while True:
        inner = next((n for n in found if _is_backbone(modules[n], n, layers, parts)), None)
        if inner is None:
            return found
        at = found.index(inner)
        children = [f"{inner}.{key}" for key, _ in modules[inner].named_children()]
        found[at : at + 1] = children


def _is_backbone(
    module: nn.Module, name: str, layers: Mapping[str, Layer], parts: Sequence[str]
) -> bool:
    """Whether a module, or a list of modules, gives no grid but holds most `parts` that do."""
    within = sum(part.startswith(f"{name}.") for part in parts)
    listed = isinstance(module, nn.ModuleList | nn.ModuleDict)
    gives_none = listed or (name in layers and not _is_on_grid(layers[name]))
    return gives_none and 2 * within > len(parts)


def _is_on_grid(layer: Layer) -> bool:
    return layer.layout is not None and min(layer.layout.grid) >= SMALLEST_GRID


def feature_info(model: nn.Module) -> tuple[str, list[dict[str, Any]]]:
    """Timm's description of the stages, and the prefix of the module names in it."""
    prefix, info = find_attribute(model, "feature_info")
    entries = getattr(info, "info", info)
    return prefix, list(entries) if isinstance(entries, (list, tuple)) else []


def find_attribute(model: nn.Module, attribute: str) -> tuple[str, Any]:
    """An attribute of the model or of a model inside it, with its prefix: ``("inner.", value)``."""
    for name, module in model.named_modules():
        value = getattr(module, attribute, None)
        if value is not None:
            return f"{name}." if name else "", value
    return "", None

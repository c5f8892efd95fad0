"""What maps score where the evidence is known, and how that is written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from core import Explainer
from core.evaluation.statistics import Values, interval
from core.types import Need


def share(values: Values, mask: NDArray[np.bool_]) -> float:
    """Share of the positive values that lie in `mask`; 0 where there are none."""
    positive = values.clip(0)
    return fraction(float(positive[mask].sum()), float(positive.sum()))


def hit(values: Values, mask: NDArray[np.bool_]) -> float:
    """Whether the largest value lies in `mask`; of several equal ones, the share that do."""
    return float(mask[values == values.max()].mean())


def fraction(part: float, whole: float) -> float:
    """The part of the whole; 0 where there is none."""
    return part / whole if whole > 0 else 0.0


def candidates(explainer: Explainer) -> list[str]:
    """The layers that could be the default: stages, outermost ones, norms of a transformer."""
    handle = explainer.model
    modules = dict(handle.model.named_modules())
    stages = [layer.name for layer in handle.layers.values() if layer.stage]
    return [
        layer.name
        for layer in handle.layers.values()
        if layer.layout is not None
        and min(layer.layout.grid) >= 3
        and (layer.stage or next(modules[layer.name].parameters(), None) is not None)
        and not any(stage.startswith(f"{layer.name}.") for stage in stages)
        and (
            layer.stage
            or "." not in layer.name
            or layer.name == handle.default_layer
            or (handle.attention_layers and layer.kind == "LayerNorm")
        )
    ]


def layer_facts(explainer: Explainer, layer: str) -> list[str]:
    """Its name, its grid, and whether it is the default: cells of a table."""
    layout = explainer.model.layers[layer].layout
    assert layout is not None
    chosen = "default" if layer == explainer.model.resolve_layer([Need.LAYER], None) else ""
    return [f"`{layer}`", f"{layout.grid[0]} x {layout.grid[1]}", chosen]


def parameters(given: Mapping[str, Mapping[str, object]]) -> str:
    """Which parameters are not the defaults, by method or metric, in words."""
    return "; ".join(
        f"`{key}` with " + ", ".join(f"`{name}={value}`" for name, value in values.items())
        for key, values in given.items()
    )


def percent(values: Values) -> str:
    """The mean and its interval, in per cent."""
    low, high = interval(values)
    return f"{100 * values.mean():.0f} ({100 * low:.0f} to {100 * high:.0f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join([*(f"| {' | '.join(line)} |" for line in cells), ""])

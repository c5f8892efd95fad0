"""``methods``, ``metrics``, ``models`` and ``layers``: what can be chosen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from core.methods.base import METHODS, Method
from core.metrics.base import METRICS
from core.models.handle import ModelHandle
from core.models.listing import list_models
from core.models.load import load_model
from core.types import Layer, finite


def methods(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``methods``: the registry, with the rows each takes for a picture on the default model."""
    handle = load_model()
    return {
        key: {
            "label": cls.label,
            "family": cls.family,
            "about": cls.about,
            "needs": sorted(cls.needs),
            "properties": sorted(cls.properties),
            "cost": _work(cls(), handle),
            "params": cls.schema_of_fields(),
            "paper": cls.paper,
        }
        for key, cls in METHODS.items()
    }, 0


def _work(method: Method, handle: ModelHandle) -> dict[str, Any]:
    cost = method.estimate_cost(handle, handle.resolve_layer(method.layer_needs(), None))
    return {"forward": cost.forward, "backward": cost.backward, "pace": cost.pace}


def metrics(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``metrics``: the registry."""
    return {
        key: {
            "label": cls.label,
            "category": cls.category,
            "about": cls.about,
            "higher_is_better": cls.higher_is_better,
            "range": [finite(end) for end in cls.range],
            "needs": sorted(cls.needs),
            "caveat": cls.caveat,
            "params": cls.schema_of_fields(),
            "paper": cls.paper,
        }
        for key, cls in METRICS.items()
    }, 0


def models(arguments: argparse.Namespace) -> tuple[Mapping[str, Any], int]:
    """``models``: what timm knows."""
    return list_models(arguments.pattern), 0


def layers(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``layers``: where a model can be looked into."""
    handle = load_model(arguments.model, weights=arguments.weights, device=arguments.device)
    return {
        "model": handle.name,
        "default": handle.default_layer,
        "stages": [layer.name for layer in handle.stages()],
        "layers": {name: layer_facts(layer) for name, layer in handle.layers.items()},
        "attention": {
            a.name: {
                "heads": a.heads,
                "tokens": a.tokens,
                "usable": not a.reason,
                "reason": a.reason,
            }
            for a in handle.attention_layers.values()
        },
    }, 0


def layer_facts(layer: Layer) -> dict[str, Any]:
    """One layer as JSON."""
    layout = layer.layout
    facts: dict[str, Any] = {"kind": layer.kind, "stage": layer.stage, "layout": None}
    if layout is not None:
        facts |= {
            "layout": layout.format,
            "grid": list(layout.grid),
            "channels": layout.channels,
            "prefix_tokens": layout.prefix,
        }
    return facts

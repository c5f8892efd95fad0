"""``layers``: the layers of a model."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import Command, model_of, no_arguments
from core.types import Layer


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``layers``: where a model can be looked into."""
    handle = model_of(arguments)
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


COMMAND = Command("the layers of a model", no_arguments, run)

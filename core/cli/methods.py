"""``methods``: every method with its parameters."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import Command, no_arguments
from core.methods.base import METHODS, Method
from core.models.handle import ModelHandle
from core.models.load import load_model


def run(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
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


COMMAND = Command("every method with its parameters", no_arguments, run, needs_model=False)

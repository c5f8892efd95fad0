"""``methods``: every method with its parameters."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import Command, no_arguments
from core.methods.base import METHODS
from core.models.load import load_model
from core.report import method_facts


def run(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``methods``: the registry, with the rows each takes for a picture on the default model."""
    handle = load_model()
    return {key: method_facts(cls(), handle) for key, cls in METHODS.items()}, 0


COMMAND = Command("every method with its parameters", no_arguments, run, needs_model=False)

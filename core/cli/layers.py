"""``layers``: the layers of a model."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import Command, model_of, no_arguments
from core.report import layers_facts


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``layers``: where a model can be looked into."""
    return layers_facts(model_of(arguments)), 0


COMMAND = Command("the layers of a model", no_arguments, run)

"""``models``: every model timm knows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from core.cli.shared import Command
from core.models.listing import list_models


def run(arguments: argparse.Namespace) -> tuple[Mapping[str, Any], int]:
    """``models``: what timm knows."""
    return list_models(arguments.pattern), 0


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    command.add_argument("pattern", nargs="?", default="", help="a part of the name, or a pattern")


COMMAND = Command("every model timm knows", configure, run, needs_model=False)

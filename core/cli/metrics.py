"""``metrics``: every metric with its parameters."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import Command, no_arguments
from core.metrics.base import METRICS
from core.report import metric_facts


def run(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``metrics``: the registry."""
    return {key: metric_facts(cls) for key, cls in METRICS.items()}, 0


COMMAND = Command("every metric with its parameters", no_arguments, run, needs_model=False)

"""``metrics``: every metric with its parameters."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import Command, no_arguments
from core.metrics.base import METRICS
from core.types import finite


def run(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
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


COMMAND = Command("every metric with its parameters", no_arguments, run, needs_model=False)

"""``sanity``: whether maps depend on the model's weights and on the class explained."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import (
    Command,
    add_method_arguments,
    model_of,
    parse_methods,
    parse_settings,
    refuse_unused,
)
from core.errors import TimmscopeError, UnknownNameError, reasons_and_ways_out
from core.evaluation.assess import mean_check
from core.evaluation.verdict import finding_of
from core.explainer import Explainer
from core.report import ways_out_facts
from core.types import Score, finite


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``sanity``: whether methods depend on a model's weights, and on the class explained."""
    settings = parse_settings(arguments.set)
    asked = parse_methods(arguments.methods, settings)
    refuse_unused(settings, "--methods")
    if not asked:
        raise TimmscopeError(f"--methods {arguments.methods!r} names none; see 'methods'")
    handle = model_of(arguments)
    explainer, results = Explainer(handle), {}
    errors: dict[str, TimmscopeError] = {}
    for name, one in asked.items():
        layer = one.layer or arguments.layer
        try:
            scores = explainer.sanity_checks(one.method, layer=layer, seed=arguments.seed)
        except UnknownNameError:
            raise
        except TimmscopeError as error:
            errors[name] = error
        else:
            results[name] = {key: _facts(key, score) for key, score in scores.items()}
    reasons, ways_out = reasons_and_ways_out(errors)
    report = {
        "model": handle.name,
        "results": results,
        "errors": reasons,
        "ways_out": ways_out_facts(ways_out),
    }
    return report, 0 if results else 1


def _facts(key: str, score: Score) -> dict[str, Any]:
    """The score of one sanity check and what it means, as JSON."""
    mean = mean_check(score)
    facts: dict[str, Any]
    if reason := mean.reason():
        facts = {"value": None, "tone": "cannot tell", "words": f"Cannot tell: {reason}."}
    else:
        found = finding_of(key, mean, {})
        facts = {"value": found.value, "tone": found.tone, "words": found.words}
    facts["pictures"] = [finite(round(v, 4)) for v in score.value.tolist()]
    if score.curve_y is not None:
        facts["curve"] = [finite(round(v, 4)) for v in score.curve_y.nanmean(0).tolist()]
    return facts


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_method_arguments(command)


COMMAND = Command("whether maps depend on the model and on the class", configure, run)

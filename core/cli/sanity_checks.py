"""``sanity``: whether maps depend on the model's weights and on the class explained."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.shared import made, parse_settings
from core.errors import FAULTS, TimmscopeError, UnknownNameError
from core.evaluation.verdict import finding
from core.explainer import Explainer
from core.methods.base import METHODS
from core.models.load import load_model
from core.types import Score


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``sanity``: whether methods depend on a model's weights, and on the class asked about."""
    settings = parse_settings(arguments.set)
    asked = made(METHODS, arguments.methods, settings)
    if settings:
        raise TimmscopeError(f"--set names {', '.join(settings)}, which is not asked for")
    if not asked:
        raise TimmscopeError(f"--methods {arguments.methods!r} names none; see 'methods'")
    handle = load_model(arguments.model, weights=arguments.weights, device=arguments.device)
    explainer, results, errors = Explainer(handle), {}, {}
    for method in asked:
        try:
            scores = explainer.sanity_checks(method, layer=arguments.layer, seed=arguments.seed)
        except UnknownNameError:
            raise
        except FAULTS as error:
            errors[method.key] = str(error).partition("\n")[0]
        else:
            results[method.key] = {key: _sane(key, score) for key, score in scores.items()}
    report = {"model": handle.name, "results": results, "errors": errors}
    return report, 0 if results else 1


def _sane(key: str, score: Score) -> dict[str, Any]:
    """What one metric of sanity says of a method on a model."""
    found = finding(key, float(score.value.mean()), {})
    facts: dict[str, Any] = {"value": found.value, "tone": found.tone, "words": found.words}
    facts["pictures"] = [round(v, 4) for v in score.value.tolist()]
    if score.curve_y is not None:
        facts["curve"] = [round(v, 4) for v in score.curve_y.mean(0).tolist()]
    return facts

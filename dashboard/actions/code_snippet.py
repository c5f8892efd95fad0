"""An explanation as Python that computes it again."""

from __future__ import annotations

import core as package
from core import Attribution
from core.tasks.base import Combination, Target
from dashboard.actions.question import ResolvedQuestion


def code_snippet(resolved: ResolvedQuestion, found: Attribution) -> str:
    """Python that gives the same map."""
    handle = resolved.explainer.model
    spec = handle.source if handle.source.startswith("hf-hub:") else handle.name
    weights = ', weights="random"' if resolved.question.weights == "random" else ""
    extra = "".join(f", {name}={value!r}" for name, value in found.params.items())
    layer = f", layer={found.layer!r}" if found.layer else ""
    return (
        f"from {package.__name__} import Explainer, load_model\n"
        f"from {package.__name__}.tasks.classification import ClassLogit, ClassProbability\n\n"
        f'explainer = Explainer(load_model("{spec}"{weights}))\n'
        "answer = explainer.explain(\n"
        f'    "picture.jpg", "{found.method}",\n'
        f"    target={target_code(resolved.target)}{layer}{extra},\n"
        ")\n"
    )


def target_code(target: Target) -> str:
    """A target as Python."""
    if isinstance(target, Combination):
        (_, one), (_, other) = target.terms
        return f"{target_code(one)} - {target_code(other)}"
    return repr(target)

"""An explanation as Python that gives it again."""

from __future__ import annotations

import core as package
from core import Attribution
from core.tasks.base import Combination, Target
from dashboard.actions.question import Asked


def code_snippet(asked: Asked, found: Attribution) -> str:
    """Python that gives the same map."""
    handle = asked.explainer.model
    spec = handle.source if handle.source.startswith("hf-hub:") else handle.name
    weights = ', weights="random"' if asked.question.weights == "random" else ""
    extra = "".join(f", {name}={value!r}" for name, value in found.params.items())
    layer = f", layer={found.layer!r}" if found.layer else ""
    return (
        f"from {package.__name__} import Explainer, load_model\n"
        f"from {package.__name__}.tasks.classification import ClassLogit, ClassProbability\n\n"
        f'explainer = Explainer(load_model("{spec}"{weights}))\n'
        "answer = explainer.explain(\n"
        f'    "picture.jpg", "{found.method}",\n'
        f"    target={code_of(asked.target)}{layer}{extra},\n"
        ")\n"
    )


def code_of(target: Target) -> str:
    """A target as Python."""
    if isinstance(target, Combination):
        (_, one), (_, other) = target.terms
        return f"{code_of(one)} - {code_of(other)}"
    return repr(target)

"""An explanation as Python that computes it again."""

from __future__ import annotations

import core as package
from core import Attribution
from core.inputs.crop import crop_text
from core.tasks.base import Combination, Target
from core.tasks.classification import ClassScore
from dashboard.actions.question import ResolvedQuestion
from dashboard.state.models import FOUND


def code_snippet(resolved: ResolvedQuestion, found: Attribution) -> str:
    """Python that gives the same map."""
    handle = resolved.explainer.model
    spec = handle.source if handle.source.startswith("hf-hub:") else handle.name
    weights = ', weights="random"' if resolved.question.weights == "random" else ""
    if resolved.question.activation != FOUND:
        weights += f', activation="{resolved.question.activation}"'
    if not handle.task.activation.bounded and (unit := handle.task.activation.unit) != "value":
        weights += f", unit={unit!r}"
    extra = "".join(f", {name}={value!r}" for name, value in found.params.items())
    layer = f", layer={found.layer!r}" if found.layer else ""
    if crop := crop_text(resolved.batch.crops[0]):
        extra += f", crop={crop!r}"
    if found.partial is not None:
        extra += f", stop_after={found.partial.done}"
    return (
        f"from {package.__name__} import Explainer, load_model\n"
        f"from {package.__name__}.tasks.classification import ClassScore, ClassProbability\n\n"
        f'explainer = Explainer(load_model("{spec}"{weights}))\n'
        "answer = explainer.explain(\n"
        f'    "picture.jpg", "{found.method}",\n'
        f"    target={target_code(resolved.target)}{layer}{extra},\n"
        ")\n"
    )


def target_code(target: Target) -> str:
    """A target as Python."""
    if isinstance(target, Combination):
        terms = "".join(
            f"{' + ' if weight > 0 else ' - '}{target_code(one)}" for weight, one in target.terms
        )
        offset = f" + {target.offset:g}" if target.offset else ""
        return f"{terms.removeprefix(' + ').strip()}{offset}"
    assert isinstance(target, ClassScore)
    return f"{type(target).__name__}({target.index})"

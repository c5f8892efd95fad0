"""An explanation as Python, and as a command line, that compute it again."""

from __future__ import annotations

import shlex
from functools import lru_cache
from pathlib import Path

import core as package
from core import METHODS, Attribution, sample_picture
from core.errors import UnknownNameError
from core.export import file_stem
from core.inputs.crop import crop_text
from core.inputs.image import open_picture
from core.methods.configuration import Configuration
from core.tasks.base import Combination, Target
from core.tasks.classification import ClassProbability, ClassScore
from dashboard.actions.question import ResolvedQuestion
from dashboard.state.models import FOUND

PROGRAM = "timmscope" if package.__name__ == "timmscope" else f"python -m {package.__name__}"
"""How the command line is called, installed or in the checkout."""


def code_snippet(resolved: ResolvedQuestion, found: Attribution) -> str:
    """Python that gives the same map, and draws it."""
    model = "".join(f", {name}={value!r}" for name, value in _loaded(resolved).items())
    extra = "".join(f", {name}={value!r}" for name, value in found.params.items())
    layer = f", layer={found.layer!r}" if found.layer else ""
    if crop := crop_text(resolved.batch.crops[0]):
        extra += f", crop={crop!r}"
    if found.partial is not None:
        extra += f", stop_after={found.partial.done}"
    sample, name = _sample(resolved), _picture_name(resolved)
    names = ["Explainer", "load_model", *["sample_picture"] * bool(sample)]
    target = f'"{_target_text(resolved.target)}"'
    if _in_probabilities(resolved.target):
        target = f"explainer.target({target}).probability()"
    return (
        f"from {package.__name__} import {', '.join(names)}\n\n"
        + (
            f'picture = sample_picture("{sample}")\n'
            if sample
            else f"picture = {name!r}  # your own file: give its path\n"
        )
        + f"explainer = Explainer(load_model({_spec(resolved)!r}{model}))\n"
        "answer = explainer.explain(\n"
        f'    picture, "{found.method}",\n'
        f"    target={target}{layer}{extra},\n"
        ")\n"
        f'answer.overlay().save("{stem(resolved, found)}.png")\n'
    )


def command_line(resolved: ResolvedQuestion, found: Attribution) -> str:
    """The command that gives the same map, and draws it."""
    method = Configuration(METHODS.make(found.method, found.params), found.layer).name
    options = {"methods": method, "target": _target_text(resolved.target)}
    if _in_probabilities(resolved.target):
        options["score"] = "probability"
    if crop := crop_text(resolved.batch.crops[0]):
        options["crop"] = crop
    if found.partial is not None:
        options["stop-after"] = str(found.partial.done)
    options |= {"model": _spec(resolved), **_loaded(resolved), "save": "png", "output-dir": "."}
    words = [f"--{name}={value}" if value[:1] == "-" else f"--{name} {shlex.quote(value)}"
             for name, value in options.items()]  # fmt: skip
    name = _picture_name(resolved)
    picture = shlex.quote(_sample(resolved) or (f"./{name}" if name[:1] == "-" else name))
    return " ".join([PROGRAM, "explain", picture, *words]) + "\n"


def stem(resolved: ResolvedQuestion, found: Attribution) -> str:
    """What a file with the map is called: picture, class, method and layer."""
    picture = Path(_picture_name(resolved)).stem
    return file_stem(picture, resolved.target_name, found.method, found.layer)


def _spec(resolved: ResolvedQuestion) -> str:
    handle = resolved.explainer.model
    return handle.source if handle.source.startswith("hf-hub:") else handle.name


def _loaded(resolved: ResolvedQuestion) -> dict[str, str]:
    """How the model is loaded and read, where that is not the default."""
    question, activation = resolved.question, resolved.explainer.model.task.activation
    found = {}
    if question.weights == "random":
        found["weights"] = "random"
    if question.activation != FOUND:
        found["activation"] = question.activation
    if not activation.bounded and activation.unit != "value":
        found["unit"] = activation.unit
    return found


def _picture_name(resolved: ResolvedQuestion) -> str:
    return Path(str(resolved.question.picture)).name


def _sample(resolved: ResolvedQuestion) -> str:
    """The name of the sample picture that is explained; empty for any other picture."""
    name = Path(_picture_name(resolved)).stem
    return name if resolved.batch.pictures[0].digest == _digest_of_sample(name) else ""


@lru_cache(maxsize=64)
def _digest_of_sample(name: str) -> str:
    """Identifies the pixels of a sample picture; empty if there is none of that name."""
    try:
        return open_picture(sample_picture(name)).digest
    except UnknownNameError:
        return ""


def _target_text(target: Target) -> str:
    """A target as it is typed: "504", "504-968", "not 504" or "not 504-968"."""
    if isinstance(target, Combination):
        (weight, first), *others = target.terms
        text = "-".join(_target_text(one) for one in (first, *(one for _, one in others)))
        return text if weight > 0 else f"not {text}"
    assert isinstance(target, ClassScore)
    return str(target.index)


def _in_probabilities(target: Target) -> bool:
    while isinstance(target, Combination):
        ((_, target), *_) = target.terms
    return isinstance(target, ClassProbability)

"""Write `docs/methods.md` from what methods and metrics say of themselves."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import timm
import torch

from core import METHODS, METRICS, Explainer, ModelHandle, load_model
from core.errors import NotApplicableError
from core.methods.base import Method
from core.registry import Parameters
from core.types import Cost, Need, Property

PAGE = Path(__file__).parent / "methods.md"

INTRO = """\
# Methods and metrics

Written by `make docs` from the registries; a test fails when this page and the code differ.
The same facts as JSON: `python -m core methods`.

A key is the name used in Python, on the command line and in saved files. *Needs* is what a method
asks of a model; a model that cannot give it refuses the method with a reason. *Promises* are held
by tests. *Rows* are how many copies of one picture of 224 x 224 pixels a method with its default
parameters sends forward through the model, and how many it differentiates; tests hold every method
to within a tenth of it. CAM methods asked about the same layer share one row between them. *Pace*
is what that means on a laptop's CPU.
"""


QUALITIES = {
    "faithfulness": [
        "srg", "deletion", "insertion", "road",
        "faithfulness_correlation", "sensitivity_n", "infidelity", "completeness_error",
    ],
    "sensitivity": ["sensitivity_n", "max_sensitivity"],
    "complexity": ["complexity", "sparseness"],
    "stability": ["max_sensitivity"],
    "localisation": [
        "pointing_game", "grid_pointing_game", "energy_inside", "mass_accuracy", "rank_accuracy",
        "iou",
    ],
    "consistency": ["randomisation", "randomisation_entropy", "class_sensitivity"],
}  # fmt: skip
"""What papers and requirements call it, and the keys of the metrics that answer."""

ELSEWHERE = {
    "agreement": "`Explainer.agreement`; `agreement` in what `explain` prints of several methods; "
    "the matrices and the map of disagreement under *Compare*",
    "computational cost": "`cost` of every attribution and score: rows forward and backward, "
    "seconds, memory; the table under *Compare*",
    "best method": "`Explainer.recommend`; `explain --recommend`; *Which one to take?* under "
    "*Compare*; over many pictures the ranking that `evaluate` prints",
}
"""What is asked for and no metric of one map answers, and what does."""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [
        INTRO,
        _meanings("Needs", Need),
        _meanings("Promises", Property),
        _methods(),
        _metrics(),
    ]
    return "\n".join(parts)


# -- methods --------------------------------------------------------------------------------------


def _methods() -> str:
    classes = sorted(METHODS.values(), key=lambda cls: (cls.family, cls.key))
    works = {cls.key: _work(cls) for cls in classes}
    overview = _table(
        ["family", "key", "label", "needs", "promises", "forward", "backward", "pace", "source"],
        (
            [
                cls.family,
                f"[`{cls.key}`](#{cls.key})",
                cls.label,
                _listed(cls.needs),
                _listed(cls.properties),
                works[cls.key].forward,
                works[cls.key].backward,
                works[cls.key].pace,
                link(cls.paper),
            ]
            for cls in classes
        ),
    )
    parts = ["## Methods\n", overview]
    for family, members in groupby(classes, key=lambda cls: cls.family):
        parts += [f"## Family: {family}\n", *map(_entry, members)]
    return "\n".join(parts)


def _work(cls: type[Method]) -> Cost:
    """The rows of a method with default parameters, on a model that can run it."""
    method = cls()
    for handle in _handles():
        if not (handle.why_not(method.requires()) or method.refusal(handle)):
            return method.estimate_cost(handle, handle.resolve_layer(method.layer_needs(), None))
    raise NotApplicableError(f"no model of this page can run {cls.key}; add one that can")


@cache
def _handles() -> list[ModelHandle]:
    """The embedded model, and a small transformer."""
    with torch.random.fork_rng([]):
        model = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=2, num_heads=3)
    return [load_model(), Explainer(model).model]


# -- metrics --------------------------------------------------------------------------------------


def _metrics() -> str:
    classes = sorted(METRICS.values(), key=lambda cls: cls.key)
    overview = _table(
        ["key", "label", "question", "better", "range", "caveat", "source"],
        (
            [
                f"[`{cls.key}`](#{cls.key})",
                cls.label,
                cls.about,
                "higher" if cls.higher_is_better else "lower",
                f"{cls.range[0]:g} to {cls.range[1]:g}",
                cls.caveat,
                link(cls.paper),
            ]
            for cls in classes
        ),
    )
    note = (
        "A score means something only beside those of the controls, the methods that know nothing\n"
        "of the model. Which metrics know the truth when they are shown it is in\n"
        "[metrics.md](metrics.md); those that do not carry a caveat.\n"
    )
    qualities = _table(
        ["what is asked for", "what answers"],
        [
            *([name, _listed(f"`{key}`" for key in keys)] for name, keys in QUALITIES.items()),
            *ELSEWHERE.items(),
        ],
    )
    return "\n".join(["## Metrics\n", note, overview, qualities, *map(_entry, classes)])


# -- parts of the page ----------------------------------------------------------------------------


def _entry(cls: type[Parameters]) -> str:
    """One method or metric: what it does, what it is good for, its parameters."""
    parts = [f"### `{cls.key}`\n", f"**{cls.label}.** {inspect.getdoc(cls)}\n", f"{cls.about}\n"]
    fields = cls.schema_of_fields()
    if fields:
        rows = (
            [f"`{name}`", _default(schema), _range(schema), schema.get("description", "")]
            for name, schema in fields.items()
        )
        parts.append(_table(["parameter", "default", "range", "meaning"], rows))
    return "\n".join(parts)


def link(paper: str) -> str:
    """A reference as a Markdown link, where it is one that can be followed.

    >>> link("arXiv:1610.02391")
    '[arXiv:1610.02391](https://arxiv.org/abs/1610.02391)'
    >>> link("10.1109/TIP.2021.3089943")
    '[doi:10.1109/TIP.2021.3089943](https://doi.org/10.1109/TIP.2021.3089943)'
    >>> link("")
    ''
    """
    if paper.startswith("arXiv:"):
        return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})"
    return f"[doi:{paper}](https://doi.org/{paper})" if paper.startswith("10.") else paper


def _meanings(title: str, words: type[StrEnum]) -> str:
    """What each member of an enumeration means, from the docstring under it in the code."""
    body = ast.parse(inspect.getsource(words)).body[0]
    assert isinstance(body, ast.ClassDef)
    told = [
        node.value.value
        for node in body.body[1:]
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    lines = [f"- **{word}**: {text}" for word, text in zip(words, told, strict=True)]
    return "\n".join([f"{title}:\n", *lines, ""])


def _default(schema: Mapping[str, Any]) -> str:
    default = schema["default"]
    text = ",".join(default) if isinstance(default, list) else str(default)
    return f"`{text}`"


def _range(schema: Mapping[str, Any]) -> str:
    """The values a parameter takes, in words."""
    if schema.get("type") == "array":
        several = f"{schema['minItems']} to {schema['maxItems']} of "
        return several + ", ".join(f"`{choice}`" for choice in schema["items"]["enum"])
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "boolean":
        return "`True`, `False`"
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']:g} to {schema['maximum']:g}"
    return "text" if schema.get("type") == "string" else "number"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join([*(f"| {' | '.join(line)} |" for line in cells), ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

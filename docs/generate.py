"""Writes `docs/methods.md` from the registries, and the last chapter of `docs/api.md`."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from gradio import FileData

from core import METHODS, METRICS, Explainer, ModelHandle, load_model
from core.errors import NotApplicableError
from core.methods.base import Family, Method
from core.metrics.base import Category, Metric
from core.registry import Parameters
from core.types import Cost, Group, Need, Property
from dashboard.api import ENDPOINTS
from dashboard.api.handlers import description, descriptions, parameters_of

PAGE = Path(__file__).parent / "methods.md"
API_PAGE = Path(__file__).parent / "api.md"

INTRO = """\
# Methods and metrics

Written by `make docs` from the registries; a test fails when this page and the code differ.
The same facts as JSON: `python -m core methods`.

A key is the name used in Python, on the command line and in saved files. *Needs* is what a model
must offer; for any other model the method is refused with a reason. *Promises* are checked by
tests. *Forward* is the number of copies of one picture of 224 x 224 pixels that a method with
default parameters sends through the model, and *backward* how many of them it differentiates; tests
check every method to within a tenth of it. CAM methods at the same layer share one pass. *Pace* is
what this takes on a laptop's CPU.
"""


ELSEWHERE = {
    "agreement": "`Explainer.agreement`; `agreement` in what `explain` prints of several methods; "
    "the matrices and the map of disagreement under *Compare*",
    "computational cost": "`cost` of every attribution and score: rows forward and backward, "
    "seconds, memory; the table under *Compare*",
    "best method": "`Explainer.recommend`; `explain --recommend`; *Which method should I use?* "
    "under *Compare*; over many pictures the ranking that `evaluate` prints",
}
"""Qualities that no metric of a single map measures, and what does."""


METRICS_NOTE = """\
A score is only meaningful beside the scores of the controls, the methods that ignore the model.
[metrics.md](metrics.md) tells which metrics rank the true evidence first; those that do not have a
caveat.
"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [
        INTRO,
        _meanings("Needs", Need),
        _meanings("Promises", Property),
        methods_section(),
        metrics_section(),
    ]
    return "\n".join(parts)


# -- methods --------------------------------------------------------------------------------------


def methods_section() -> str:
    """All methods: a table, then family by family, as Markdown."""
    by_family = {
        family: sorted((c for c in METHODS.values() if c.family == family), key=lambda c: c.key)
        for family in Family
    }
    overview = _table(
        ["family", "key", "label", "needs", "promises", "forward", "backward", "pace", "source"],
        (_method_row(cls) for classes in by_family.values() for cls in classes),
    )
    parts = ["## Methods\n", overview]
    for family, classes in by_family.items():
        parts += [_heading("Family", family), *map(_entry, classes)]
    return "\n".join(parts)


def _method_row(cls: type[Method]) -> list[object]:
    work = _work(cls)
    return [
        cls.family.label,
        f"[`{cls.key}`](#{cls.key})",
        cls.label,
        _listed(cls.needs),
        _listed(cls.properties),
        work.forward,
        work.backward,
        work.pace,
        link(cls.paper),
    ]


def _work(cls: type[Method]) -> Cost:
    """The cost of a method with default parameters, on a model that can run it."""
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


def metrics_section() -> str:
    """All metrics: a table, what answers to which quality, then each category, as Markdown."""
    by_category = {
        category: sorted(
            (c for c in METRICS.values() if c.category == category), key=lambda c: c.key
        )
        for category in Category
    }
    overview = _table(
        ["category", "key", "label", "question", "better", "range", "caveat", "source"],
        (_metric_row(cls) for classes in by_category.values() for cls in classes),
    )
    answers = ((name, _listed(f"`{key}`" for key in keys)) for name, keys in qualities().items())
    found = _table(["what is asked for", "what answers"], [*answers, *ELSEWHERE.items()])
    parts = ["## Metrics\n", METRICS_NOTE, overview, found]
    for category, classes in by_category.items():
        parts += [_heading("Category", category), *map(_entry, classes)]
    return "\n".join(parts)


def _metric_row(cls: type[Metric]) -> list[object]:
    return [
        cls.category.label,
        f"[`{cls.key}`](#{cls.key})",
        cls.label,
        cls.about,
        "higher" if cls.higher_is_better else "lower",
        f"{cls.range[0]:g} to {cls.range[1]:g}",
        cls.caveat,
        link(cls.paper),
    ]


def qualities() -> dict[str, list[str]]:
    """The keys of the metrics for each quality: categories first, then other names for them."""
    others = sorted({name for cls in METRICS.values() for name in cls.also_answers})
    names = list(dict.fromkeys([*map(str, Category), *others]))
    return {
        name: [key for key, c in METRICS.items() if name in (c.category, *c.also_answers)]
        for name in names
    }


# -- the API --------------------------------------------------------------------------------------

ENDPOINTS_TITLE = "## Every endpoint\n"


def api_page() -> str:
    """The page of the API: what a person wrote, then every endpoint with its parameters."""
    written = API_PAGE.read_text(encoding="utf-8").partition(ENDPOINTS_TITLE)[0]
    return "\n".join([written.rstrip(), "", ENDPOINTS_TITLE, *map(_endpoint, ENDPOINTS)])


def _endpoint(endpoint: Callable[..., Any]) -> str:
    hints = typing.get_type_hints(endpoint)
    words = descriptions(hints["request"])
    rows = [
        [f"`{one.name}`", _type(one.annotation), _given(one.default), words[one.name]]
        for one in parameters_of(hints["request"])
    ]
    parts = [f"### `/{endpoint.__name__}`\n", f"{description(endpoint)}\n"]
    if rows:
        parts.append(_table(["parameter", "type", "default", "meaning"], rows))
    gives = descriptions(hints["return"]) if typing.is_typeddict(hints["return"]) else {}
    if gives:
        parts.append(_table(["gives", "meaning"], ([f"`{n}`", w] for n, w in gives.items())))
    return "\n".join(parts)


def _type(hint: Any) -> str:
    """A type as a person writes it."""
    if hint in (FileData, FileData | None):
        return "file"
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return f"`{text}`"


def _given(default: Any) -> str:
    return "required" if default is Parameter.empty else f"`{default!r}`"


# -- parts of the page ----------------------------------------------------------------------------


def _heading(kind: str, group: Group) -> str:
    return f"## {kind}: {group.label}\n\n{group.description}\n"


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
    API_PAGE.write_text(api_page(), encoding="utf-8")

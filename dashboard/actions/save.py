"""An explanation as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass

from core import Attribution
from core.errors import TimmscopeError
from core.export import (
    Style,
    context_facts,
    figure_text,
    result_facts,
    save_npz,
    save_png,
    save_svg,
)
from core.inputs.batch import OnProgress
from core.tasks.query import Query
from core.views.colour import ALPHA
from dashboard.actions.code_snippet import code_snippet, command_line, stem
from dashboard.actions.explain import ExplainRequest, attribution_of, remaining_cost
from dashboard.actions.question import ResolvedQuestion, resolve
from dashboard.state import Service


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """A file of the explanation on the page.

    Attributes:
        explanation: the one on the page; None while there is none.
        kind: "png" or "svg" as shown, with title, colour scale and caption; "npz" with raw values
            and metadata; "json" with what reproduces it.
        colormap: of the picture; see `core.views.colour`.
        alpha: opacity of the map, 0 to 1.
        fade: whether the picture shows where the map is near zero.
        smooth: whether a map that differs from pixel to pixel is smoothed in the picture.
        strongest: per cent of the map that the picture shows, the strongest values.
        layer: the layer of the map on the page, where the filmstrip has chosen another one.
    """

    explanation: ExplainRequest | None
    kind: str
    colormap: str = "auto"
    alpha: float = ALPHA
    fade: bool = False
    smooth: bool = True
    strongest: float = 100.0
    layer: str | None = None


def save(service: Service, request: SaveRequest, on_progress: OnProgress | None = None) -> str:
    """Write the file; its path.

    It takes time only where the explanation is no longer in the cache.

    Raises:
        TimmscopeError: there is no explanation to save.
    """
    if request.explanation is None:
        raise TimmscopeError("There is no map to save yet. Press Explain first.")
    explanation = request.explanation.at(request.layer)
    resolved = resolve(service, explanation.question, on_progress)
    with service.slow.turn(remaining_cost(resolved, explanation), on_progress) as on_step:
        found = attribution_of(resolved, explanation, on_step)
    path = service.files.new_folder() / f"{stem(resolved, found)}.{request.kind}"
    model, query = resolved.explainer.model, Query(resolved.batch, resolved.target)
    text = figure_text(model, query, resolved.prediction, found)
    look = request.colormap, request.alpha, request.fade, request.smooth, request.strongest
    match request.kind:
        case "png":
            save_png(path, resolved.batch, found, Style(*look), text)
        case "svg":
            save_svg(path, resolved.batch, found, Style(*look), text)
        case "npz":
            facts = context_facts(model, query, resolved.prediction)
            save_npz(path, resolved.batch, found, facts)
        case _:
            path.write_text(report(resolved, found), encoding="utf-8")
    return str(path)


def report(resolved: ResolvedQuestion, found: Attribution) -> str:
    """Everything that reproduces an explanation, as JSON."""
    query = Query(resolved.batch, resolved.target)
    context = context_facts(resolved.explainer.model, query, resolved.prediction)
    return json.dumps(
        {
            **context,
            "method": found.method,
            **result_facts(found),
            "python": code_snippet(resolved, found),
            "command": command_line(resolved, found),
        },
        indent=2,
        ensure_ascii=False,
    )

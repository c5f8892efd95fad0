"""An explanation as a file."""

from __future__ import annotations

import json
from pathlib import Path

from core import Attribution
from core.export import context_facts, result_facts, save_npz, save_png
from core.inputs.batch import OnProgress
from core.tasks.query import Query
from dashboard.actions.code_snippet import code_snippet
from dashboard.actions.explain import explained
from dashboard.actions.question import Asked, Settings, ask
from dashboard.state import Question, Service


def download(
    service: Service,
    question: Question,
    method: str,
    settings: Settings,
    layer: str | None,
    kind: str,
    colormap: str,
    alpha: float,
    fade: bool,
    on_progress: OnProgress | None = None,
) -> str:
    """A file with the explanation: PNG as shown, NPZ with raw values, JSON with the recipe.

    Raises:
        TimmscopeError: there is no explanation to save.
    """
    asked = ask(service, question, on_progress)
    found = explained(asked, method, settings, layer, on_progress)
    path = service.folder() / f"{Path(str(question.picture)).stem[:40]}.{method}.{kind}"
    if kind == "png":
        save_png(path, asked.batch, found, colormap, alpha, fade)
    elif kind == "npz":
        save_npz(path, asked.batch, found)
    else:
        path.write_text(report(asked, found), encoding="utf-8")
    return str(path)


def report(asked: Asked, found: Attribution) -> str:
    """Everything needed to reproduce an explanation, as JSON."""
    return json.dumps(
        {
            **context_facts(
                asked.explainer.model, Query(asked.batch, asked.target), asked.prediction
            ),
            "method": found.method,
            **result_facts(found),
            "python": code_snippet(asked, found),
        },
        indent=2,
        ensure_ascii=False,
    )

"""One method's map over the picture."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from core import METHODS, Attribution, Explainer
from core.errors import CancelledError, TimmscopeError
from core.export import colour_range, map_on_input
from core.inputs.batch import OnProgress
from core.views.maps import overlay_panel
from core.views.panels import Panel, error_panel
from dashboard.actions.code_snippet import code_snippet
from dashboard.actions.formatting import SUMS, facts, regions, spent
from dashboard.actions.question import Asked, Settings, ask, trouble
from dashboard.controls import params_of
from dashboard.state import Question, Service

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Explained:
    """One explanation as the page shows it.

    Attributes:
        panels: the overlay, or why there is none.
        summary: what it took, and how far it can be believed, in Markdown.
        code_snippet: Python that gives the same map.
    """

    panels: list[Panel]
    summary: str = ""
    code_snippet: str = ""


def explain(
    service: Service,
    question: Question,
    method: str,
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> Explained:
    """One method's map over the picture."""
    try:
        asked = ask(service, question, on_progress)
        found = explained(asked, method, settings, layer, on_progress)
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Explained([trouble("Not explained", question, error)])
    except RuntimeError as error:  # the model's own code
        logger.exception("%s failed", method)
        return Explained([error_panel("Not explained", str(error).partition("\n")[0])])
    return Explained([_overlay(asked, found)], summary(found), code_snippet(asked, found))


def explained(
    asked: Asked,
    method: str,
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> Attribution:
    """The method's answer, with the parameters a person set.

    Raises:
        TimmscopeError: there is none; the sentence is the reason.
    """
    return asked.explainer.explain(
        asked.batch,
        method,
        target=asked.target,
        layer=suitable_layer(asked.explainer, method, layer),
        on_progress=on_progress,
        **params_of(settings, method, METHODS[method]),
    )


def suitable_layer(explainer: Explainer, method: str, layer: str | None) -> str | None:
    """The layer for this method; None where the one chosen before belongs to another kind."""
    needs = METHODS.make(method).layer_needs()
    return layer if layer in explainer.model.choices(needs) else None


def _overlay(asked: Asked, found: Attribution) -> Panel:
    segments = found.extras.get("segments")
    adds_up = any(name in found.extras for name in SUMS)
    return overlay_panel(
        asked.batch.pictures[0].image,
        map_on_input(asked.batch, found),
        asked.batch.geometries[0],
        title=f"{METHODS[found.method].label}: why {asked.about}",
        caption=_caption(asked, found),
        limits=colour_range(found),
        unit=asked.target.unit if adds_up else "",
        segments=None if segments is None else segments[0].numpy(),
    )


def _caption(asked: Asked, found: Attribution) -> str:
    """What was looked at, and what it took."""
    parts = [f"{asked.target.unit} {float(found.score[0]):.3g}"]
    if found.layer:
        parts.append(f"layer {found.layer}")
    parts.append(spent(found.cost))
    if not asked.batch.geometries[0].whole:
        parts.append("the outline is what the model saw")
    return " · ".join(parts)


def summary(found: Attribution) -> str:
    """How far the map can be believed, in words."""
    told = []
    for name in SUMS:
        if name in found.extras:
            error = float(found.extras[name][0])
            verdict = "adds up well" if error < 0.05 else "does not add up: take more steps"
            words = name.replace("_", " ").capitalize()
            told.append(
                f"**{words} {error:.1%}**: the map's sum against the score's rise; it {verdict}."
            )
    more = filter(None, (regions(found), facts(found, besides=SUMS)))
    told += [f"{words[0].upper()}{words[1:]}." for words in more]
    return " ".join(told)

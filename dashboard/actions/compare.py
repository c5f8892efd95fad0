"""Several methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core import METHODS, Attribution
from core.export import colour_range, map_on_input
from core.inputs.batch import OnProgress
from core.methods.configuration import label_of
from core.registry import key_of
from core.types import Comparison
from core.views.charts import matrix_panel
from core.views.colour import Limits
from core.views.maps import overlay_panel, picture_uri
from core.views.panels import Panel, empty_panel
from dashboard.actions.formatting import cost_text, extras_text
from dashboard.actions.question import (
    Answers,
    Question,
    ResolvedQuestion,
    Settings,
    compare_methods,
    reason_cards,
    resolve,
)
from dashboard.state import Service

Ranges = tuple[Limits, Limits]
COST_HEADERS = ["Method", "Forward passes", "Backward passes", "Time (ms)", "Notes"]


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """Several methods on one question.

    Attributes:
        question: picture, model and class.
        methods: names of methods or configurations, such as "lime(samples=200)".
        settings: parameters a person set.
        layer: the layer of CAM methods; empty for the model's own choice.
        colour_range: "own" for a range of colours for each map, "shared" for one for all.
    """

    question: Question
    methods: Sequence[str]
    settings: Settings
    layer: str | None
    colour_range: str


@dataclass(frozen=True)
class CompareResult:
    """Several methods side by side.

    Attributes:
        panels: the maps, the reasons why others have none, then how far the methods agree.
        table: a row for each method; see `COST_HEADERS`.
        answers: which question it answers.
    """

    panels: list[Panel]
    table: list[list[Any]] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)


def compare(
    service: Service, request: CompareRequest, on_progress: OnProgress | None = None
) -> CompareResult:
    """Every chosen method on one question; one that fails says so in its card.

    Raises:
        TimmscopeError: the question cannot be answered by any method.
    """
    if not request.methods:
        return CompareResult([empty_panel("Choose at least one method.")])
    resolved = resolve(service, request.question, on_progress)
    with service.slow.slot(on_progress):
        comparison = compare_methods(
            resolved, request.methods, request.settings, request.layer, on_progress
        )
    keys = _in_order(comparison, request.methods)
    uri = picture_uri(resolved.batch.pictures[0].image)
    panels = _cards(resolved, comparison, keys, uri, request.colour_range == "shared")
    return CompareResult(
        panels + _agreement(resolved, comparison, uri),
        [_row(key, comparison) for key in keys],
        resolved.answers(request.methods),
    )


def _in_order(comparison: Comparison, methods: Sequence[str]) -> list[str]:
    """The keys of a comparison in the order in which the methods were chosen."""
    chosen = [METHODS[key_of(name)].key for name in methods]
    keys = [*comparison.results, *comparison.errors]
    return sorted(keys, key=lambda key: chosen.index(key_of(key)))


def _cards(
    resolved: ResolvedQuestion, comparison: Comparison, keys: list[str], uri: str, shared: bool
) -> list[Panel]:
    results = comparison.results
    ranges = _ranges(*results.values()) if shared and results else None
    maps = [
        _map_card(resolved, results[key], uri, label_of(key), ranges or _ranges(results[key]))
        for key in keys
        if key in results
    ]
    failed = {label_of(key): comparison.errors[key] for key in keys if key in comparison.errors}
    return maps + reason_cards(failed)


def _ranges(*found: Attribution) -> Ranges:
    """The ranges of colours of maps that share them: drawn smoothed, and as they are."""
    return colour_range(*found), colour_range(*found, smooth=False)


def _map_card(
    resolved: ResolvedQuestion, found: Attribution, uri: str, title: str, ranges: Ranges
) -> Panel:
    return overlay_panel(
        uri,
        map_on_input(resolved.batch, found),
        resolved.batch.geometries[0],
        title=title,
        caption=cost_text(found.cost),
        limits=ranges[0],
        unsmoothed=ranges[1],
    )


def _row(key: str, comparison: Comparison) -> list[Any]:
    label = label_of(key)
    if key in comparison.errors:
        return [label, None, None, None, "no map: see its card"]
    found = comparison.results[key]
    cost = found.cost
    return [label, cost.forward, cost.backward, round(cost.seconds * 1000), extras_text(found)]


def _agreement(resolved: ResolvedQuestion, comparison: Comparison, uri: str) -> list[Panel]:
    """How far methods agree, and where they do not; nothing for fewer than two."""
    if len(comparison.results) < 2:
        return []
    found = resolved.explainer.agreement(resolved.batch, comparison.results)
    names = [label_of(key) for key in found.methods]
    return [
        overlay_panel(
            uri,
            found.disagreement.numpy(),
            resolved.batch.geometries[0],
            title="Where the methods disagree",
            caption="Spread of each pixel's rank across the methods; 0 where all agree",
            limits=(0.0, 0.5),
        ),
        matrix_panel(
            found.spearman.tolist(),
            names,
            title="Rank correlation",
            caption="1: two methods rank all pixels alike; 0: unrelated",
        ),
        matrix_panel(
            found.ssim.tolist(),
            names,
            title="Structural similarity",
            caption="1: two maps look alike, each scaled to its own range",
        ),
        matrix_panel(
            found.overlap.tolist(),
            names,
            title="Overlap of the top 10%",
            caption="Intersection over union of the 10% of pixels that two methods rank highest",
        ),
    ]

"""Which of several methods to use for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core import METHODS
from core.evaluation.recommendation import Recommendation
from core.inputs.batch import OnProgress
from core.methods.configuration import label_of
from core.views.panels import Panel, Tone, empty_panel, finding_panel
from dashboard.actions.question import (
    Answers,
    Question,
    Settings,
    compare_methods,
    resolve,
)
from dashboard.actions.reasons import Chosen, failures_of, reason_cards
from dashboard.state import Service

RANKING_HEADERS = ["Method", "Mean gain", "Lowest", "Highest", "Passes", "Notes"]


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """Which of several methods to use.

    Attributes:
        question: picture, model and class.
        methods: names of methods or configurations.
        settings: parameters a person set.
        layer: the layer of CAM methods; empty for the model's own choice.
    """

    question: Question
    methods: Sequence[str]
    settings: Settings
    layer: str | None

    @property
    def chosen(self) -> Chosen:
        """The methods, as they are listed."""
        return Chosen("compare", "method", self.methods, "recommend")


@dataclass(frozen=True)
class RecommendResult:
    """Which method to use.

    Attributes:
        panels: the recommendation in words, or why there is none.
        table: a row for each method, controls last; see `RANKING_HEADERS`.
        answers: which question it answers.
    """

    panels: list[Panel]
    table: list[list[Any]] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)


def recommend(
    service: Service, request: RecommendRequest, on_progress: OnProgress | None = None
) -> RecommendResult:
    """Which of the chosen methods to use for this picture, and why.

    Raises:
        TimmscopeError: none of the methods can be compared.
    """
    if not request.methods:
        return RecommendResult([empty_panel("Choose at least one method.")])
    resolved = resolve(service, request.question, on_progress)
    with service.slow.slot(on_progress) as on_step:
        comparison = compare_methods(
            resolved, request.methods, request.settings, request.layer, on_step
        )
        found = comparison.results and resolved.explainer.recommend(
            resolved.batch, comparison.results, target=resolved.target, on_progress=on_step
        )
    failed = reason_cards(
        failures_of(comparison, request.methods, request.settings), request.chosen
    )
    answers = resolved.answers(request.methods)
    if not found:
        return RecommendResult(failed, answers=answers)
    return RecommendResult([_card(found), *failed], _table(found), answers)


def _card(found: Recommendation) -> Panel:
    title = "None of these methods" if found.method is None else label_of(found.method)
    tone: Tone = "bad" if found.method is None else "good" if found.firm else "doubtful"
    scores = {one.method: one.gain for one in found.ranking}
    return {**finding_panel(title, found.words, tone), "scores": scores}


def _table(found: Recommendation) -> list[list[Any]]:
    methods = [
        [
            label_of(one.method),
            *(round(gain, 3) for gain in (one.gain, min(one.gains), max(one.gains))),
            one.cost_in_passes,
            _note(found, one.method),
        ]
        for one in found.ranking
    ]
    controls = [
        [METHODS[key].label, round(gain, 3), None, None, None, "control"]
        for key, gain in sorted(found.controls.items(), key=lambda item: -item[1])
    ]
    return methods + controls


def _note(found: Recommendation, method: str) -> str:
    if method == found.method:
        return "recommended"
    rival = found.doubtful.get(method)
    return f"no better than {METHODS[rival].label}" if rival else ""

"""What all actions share: a question met with its picture, model and target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import METHODS, Explainer
from core.errors import NotApplicableError, TimmscopeError
from core.inputs.batch import InputBatch, OnProgress
from core.tasks.base import Target
from core.types import Comparison, Prediction
from core.views.panels import Panel, empty_panel, error_panel
from dashboard.controls import params_of
from dashboard.state import Question, Service

Choices = list[tuple[str, Any]]
Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """A question met with its picture, model and target.

    Attributes:
        question: as asked, with the predicted class where none was chosen.
        explainer: of the model.
        batch: at the picture.
        prediction: of the picture.
        target: what is explained.
    """

    question: Question
    explainer: Explainer
    batch: InputBatch
    prediction: Prediction
    target: Target

    @property
    def about(self) -> str:
        """The target in words."""
        return self.target.describe(self.prediction)


def ask(service: Service, question: Question, on_progress: OnProgress | None = None) -> Asked:
    """Load, decode, predict; each only the first time.

    Raises:
        TimmscopeError: the picture, the model or the target does not do.
        CancelledError: it is no longer wanted.
    """
    explainer = service.explainer(question.model, question.weights, on_progress)
    batch = service.prepare(explainer, question.picture)
    prediction = explainer.predict(batch)
    if prediction.features and question.unit == "probability":
        raise NotApplicableError(
            f"{explainer.model.name} has no classes, so no probability; explain by its logit"
        )
    predicted = prediction.top(1)[0][0]
    target = question.to_target(explainer, predicted)
    return Asked(question.settled(predicted), explainer, batch, prediction, target)


def answers(
    asked: Asked,
    methods: Sequence[str],
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None,
) -> Comparison:
    """Several methods' answers with the parameters a person set."""
    return asked.explainer.compare(
        asked.batch,
        list(methods),
        params={key: params_of(settings, key, METHODS[key]) for key in methods},
        target=asked.target,
        layer=layer,
        on_progress=on_progress,
    )


def trouble(title: str, question: Question, error: TimmscopeError) -> Panel:
    """A card for what went wrong, or for what to do first."""
    return error_panel(title, str(error)) if question.picture else empty_panel(str(error))

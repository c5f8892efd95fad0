"""What the model predicts for a picture."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.types import Prediction
from core.views.charts import prediction_panel
from core.views.panels import Panel, error_panel
from dashboard.actions.question import (
    Choices,
    Question,
    UnusableError,
    fault_card,
    load_and_predict,
)
from dashboard.state import Service


@dataclass(frozen=True)
class PredictResult:
    """What the model predicts for a picture.

    Attributes:
        panels: the most likely classes as bars.
        classes: every class as (label, index), most likely first.
        predicted: the predicted class; of a model without classes, the strongest feature.
        notes: what a person should know of the picture, or why it cannot be used.
    """

    panels: list[Panel]
    classes: Choices = field(default_factory=list)
    predicted: int | None = None
    notes: str = ""


def predict(
    service: Service, question: Question, on_progress: OnProgress | None = None
) -> PredictResult:
    """The most likely classes, and every class to choose from.

    Raises:
        TimmscopeError: the model or the picture cannot be used.
    """
    explainer, batch, prediction = load_and_predict(service, question, on_progress)
    return PredictResult(
        [_bars(prediction, explainer.model.domain_note)],
        _classes(prediction),
        prediction.top(1)[0][0],
        "; ".join(batch.pictures[0].notes),
    )


def no_prediction(question: Question, error: TimmscopeError) -> PredictResult:
    """What the page shows instead of a prediction: each error at the part that it concerns."""
    part = error.part if isinstance(error, UnusableError) else ""
    if part == "prediction":
        return PredictResult([error_panel("No prediction", str(error))])
    notes = f"**This picture cannot be used:** {error}" if part == "picture" else ""
    return PredictResult([fault_card("No prediction", question, error)], notes=notes)


def _classes(prediction: Prediction) -> Choices:
    """Every class, the five most likely ones first and with how likely they are."""
    top = prediction.top(5)
    first = {index for index, _, _ in top}
    likely: Choices = [
        (f"{label} · {prediction.text(value)}", index) for index, label, value in top
    ]
    rest = [i for i in range(prediction.values.shape[1]) if i not in first]
    return likely + [(prediction.label(i), i) for i in rest]


def _bars(prediction: Prediction, domain_note: str) -> Panel:
    choose = "Choose one below" if prediction.kind == "output" else "Click a bar"
    caption = f"{choose} to explain that {prediction.kind}."
    return prediction_panel(prediction, caption=" ".join(filter(None, [domain_note, caption])))

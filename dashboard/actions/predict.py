"""What the model predicts for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from core.errors import TimmscopeError
from core.inputs.batch import InputBatch, OnProgress
from core.inputs.crop import crop_text
from core.types import Prediction
from core.views.charts import OUTPUTS, note_on
from core.views.maps import picture_uri
from dashboard.actions.question import (
    NO_CLASS,
    Choices,
    Question,
    UnusableError,
    brief,
    load_and_predict,
)
from dashboard.state import Service

ABOUT = ("picture", "model", "weights", "activation", "measured_in", "crop")
"""Fields of a question that a prediction depends on."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One of the most likely classes.

    Attributes:
        index: the class.
        label: its name.
        text: how likely it is, as people read it.
        share: the length of its bar, from 0 to 1; None for numbers that share no scale.
    """

    index: int
    label: str
    text: str
    share: float | None


@dataclass(frozen=True)
class ClassList:
    """The most likely classes of a picture, or why there are none.

    Attributes:
        title: what the model's outputs are called.
        notes: what is to be said of them.
        rows: the most likely one first.
        about: what was asked about, see `ABOUT`.
    """

    title: str
    notes: list[str]
    rows: list[ClassRow] = field(default_factory=list)
    about: Mapping[str, str | None] = field(default_factory=dict)

    def on(self, question: Question) -> ClassList:
        """The same, with what was asked about."""
        return replace(self, about={name: getattr(question, name) for name in ABOUT})

    def to_json(self) -> dict[str, Any]:
        """All values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SeenPart:
    """A picture, and the part of it that the model sees.

    Attributes:
        picture: a small copy as a data URI.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        box: left, top, right and bottom of the part, in pixels of the picture; larger than the
            picture where it is padded.
        aspect: width of the model's input divided by its height.
        crop: the part as it was asked for; empty for the model's own.
    """

    picture: str
    width: int
    height: int
    box: tuple[float, float, float, float]
    aspect: float
    crop: str

    @classmethod
    def of(cls, batch: InputBatch) -> SeenPart:
        """The part of the first picture of a batch."""
        geometry, small = batch.geometries[0], picture_uri(batch.pictures[0].image, side=480)
        height, width = geometry.picture
        aspect = geometry.input[1] / geometry.input[0]
        return cls(small, width, height, geometry.box, aspect, crop_text(batch.crops[0]))


@dataclass(frozen=True)
class PredictResult:
    """What the model predicts for a picture.

    Attributes:
        likely: the most likely classes.
        classes: every class as (label, index), most likely first.
        predicted: the predicted class; of a model without classes, the strongest feature.
        target: the class to explain: the one asked for, or else the predicted one.
        versus: the class to compare it with; `NO_CLASS` for none.
        notes: what a person should know of the picture, or why it cannot be used.
        seen: the part of the picture that the model sees; None where there is no picture.
    """

    likely: ClassList
    classes: Choices = field(default_factory=list)
    predicted: int | None = None
    target: int | str | None = None
    versus: int | str | None = NO_CLASS
    notes: str = ""
    seen: SeenPart | None = None


def predict(
    service: Service, question: Question, on_progress: OnProgress | None = None
) -> PredictResult:
    """The most likely classes, and every class to choose from.

    Raises:
        TimmscopeError: the model or the picture cannot be used.
    """
    explainer, batch, prediction = load_and_predict(service, question, on_progress)
    return PredictResult(
        likely_classes(prediction, explainer.model.domain_note).on(question),
        _classes(prediction),
        predicted := prediction.top(1)[0][0],
        predicted if question.target in (None, "") else question.target,
        question.versus if question.has_versus else NO_CLASS,
        "; ".join(batch.pictures[0].notes),
        SeenPart.of(batch),
    )


def no_prediction(question: Question, error: TimmscopeError) -> PredictResult:
    """What the page shows instead of a prediction: each error at the part that it concerns."""
    part = error.part if isinstance(error, UnusableError) else ""
    reason = str(error) if part == "prediction" else brief(error)
    notes = f"**This picture cannot be used:** {error}" if part == "picture" else ""
    return PredictResult(ClassList("No prediction", [reason]).on(question), notes=notes)


def _classes(prediction: Prediction) -> Choices:
    """Every class, the five most likely ones first and with how likely they are."""
    top = prediction.top(5)
    first = {index for index, _, _ in top}
    likely: Choices = [
        (f"{label} · {prediction.text(value)}", index) for index, label, value in top
    ]
    rest = [i for i in range(prediction.values.shape[1]) if i not in first]
    return likely + [(prediction.label(i), i) for i in rest]


def likely_classes(prediction: Prediction, domain_note: str = "") -> ClassList:
    """The five most likely classes of the first picture, or its first numbers, as rows.

    Args:
        prediction: of the picture.
        domain_note: what is to be said of pictures that the model does not know.
    """
    top = prediction.top(5)
    longest = 1.0 if prediction.bounded else max([value for *_, value in top] + [0.0]) or 1.0
    has_bars = prediction.kind != "output"
    rows = [
        ClassRow(
            index, label, prediction.text(value), max(value, 0.0) / longest if has_bars else None
        )
        for index, label, value in top
    ]
    notes = list(filter(None, [note_on(prediction), domain_note]))
    return ClassList(OUTPUTS[prediction.kind], notes, rows)

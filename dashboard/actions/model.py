"""What can be asked of a model, and what it says of a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from core import METHODS, ModelHandle
from core.errors import CancelledError, TimmscopeError
from core.inputs.batch import OnProgress
from core.methods.base import Method
from core.types import Need, Prediction
from core.views.charts import bars_panel
from core.views.panels import Panel
from dashboard.actions.formatting import promised
from dashboard.actions.question import Choices, Settings, trouble
from dashboard.controls import params_of
from dashboard.state import Question, Service


def method_choices(suits: Callable[[str], bool] = lambda key: True) -> Choices:
    """Every method as (label, key), family by family; those that do not suit come last."""
    keys = sorted(METHODS, key=lambda key: (not suits(key), METHODS[key].family.order))
    return [
        (_with_family(METHODS[key]) + ("" if suits(key) else " · not for this model"), key)
        for key in keys
    ]


def _with_family(cls: type[Method]) -> str:
    """The method's label after its family's, unless that would say the same word twice."""
    family = cls.family.label
    told = cls.label.startswith(family) or f"({family.lower()})" in cls.label
    return cls.label if told else f"{family} · {cls.label}"


@dataclass(frozen=True)
class ModelFacts:
    """What the page needs to know of a model to offer choices.

    Attributes:
        methods: (label, key) of every method; those the model cannot run say so.
        layers: layers on a grid, the meaningful ones first.
        default_layer: where CAM methods look.
        attention: layers whose attention lies on the picture.
        summary: a sentence about the model.
        error: why it could not be loaded; empty if it was.
    """

    methods: Choices = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    default_layer: str | None = None
    attention: list[str] = field(default_factory=list)
    summary: str = ""
    error: str = ""


def describe_model(
    service: Service, model: str, weights: str, on_progress: OnProgress | None = None
) -> ModelFacts:
    """Load a model and say what can be asked of it."""
    try:
        handle = service.explainer(model, weights, on_progress).model
    except CancelledError:
        raise
    except TimmscopeError as error:
        return ModelFacts(methods=method_choices(), error=str(error))
    return ModelFacts(
        methods=method_choices(lambda key: not why_not(handle, key)),
        layers=handle.choices([Need.LAYER]),
        default_layer=handle.default_layer,
        attention=handle.choices([Need.ATTENTION]),
        summary=_summary(handle),
    )


def _summary(handle: ModelHandle) -> str:
    count = sum(p.numel() for p in handle.model.parameters()) / 1e6
    height, width = handle.preprocessing.input_size[1:]
    kind = "features, no classes" if handle.features else "classes"
    return (
        f"{count:.1f} M parameters, {handle.outputs} {kind}, sees {width} x {height} pixels, "
        f"on {handle.device}. Weights: {handle.source}."
    )


def why_not(handle: ModelHandle, key: str) -> str:
    """Why a model cannot be explained by a method with default parameters; empty if it can."""
    method = METHODS.make(key)
    return handle.why_not(method.requires()) or method.refusal(handle)


@dataclass(frozen=True)
class MethodFacts:
    """What the page needs to know of a method on a model.

    Attributes:
        about: what it is good for, in Markdown, with the reason if the model cannot run it.
        layers: where it can look.
        layer: where it looks unless told otherwise.
    """

    about: str
    layers: list[str] = field(default_factory=list)
    layer: str | None = None


def describe_method(service: Service, model: str, weights: str, key: str) -> MethodFacts:
    """What a method is good for, and where it can look in a model."""
    cls = METHODS[key]
    try:
        handle = service.explainer(model, weights).model
    except TimmscopeError:
        return MethodFacts(cls.about)
    if reason := why_not(handle, key):
        return MethodFacts(f"{cls.about}\n\n**Not for this model:** {reason.rstrip('.')}.")
    needs = METHODS.make(key).layer_needs()
    return MethodFacts(cls.about, handle.choices(needs), handle.resolve_layer(needs, None))


def takes(
    service: Service, model: str, weights: str, key: str, settings: Settings, layer: str | None
) -> str:
    """What a method with these settings takes on a model; empty where it cannot run."""
    try:
        handle = service.explainer(model, weights).model
        method = METHODS.make(key, params_of(settings, key, METHODS[key]))
        if handle.why_not(method.requires()) or method.refusal(handle):
            return ""
        needs = method.layer_needs()
        known = layer if layer in handle.choices(needs) else None
        return promised(method.estimate_cost(handle, handle.resolve_layer(needs, known)))
    except TimmscopeError:
        return ""


@dataclass(frozen=True)
class Seen:
    """What the model says of a picture.

    Attributes:
        panels: the likeliest classes as bars, or why there are none.
        classes: (label, index) of every class, likeliest first.
        predicted: the predicted class; of a model without classes, the strongest feature.
        notes: what a person should know of the picture.
    """

    panels: list[Panel]
    classes: Choices
    predicted: int | None
    notes: str


def predict(service: Service, question: Question, on_progress: OnProgress | None = None) -> Seen:
    """The top classes, and every class to choose from."""
    try:
        explainer = service.explainer(question.model, question.weights, on_progress)
        batch = service.prepare(explainer, question.picture)
        prediction = explainer.predict(batch)
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Seen([trouble("No prediction", question, error)], [], None, "")
    notes = list(batch.pictures[0].notes)
    if question.weights == "random":
        notes.append("random weights: the prediction means nothing")
    return Seen(
        [_bars(prediction)], _classes(prediction), prediction.top(1)[0][0], "; ".join(notes)
    )


def _classes(prediction: Prediction) -> Choices:
    """Every class to choose from, the likeliest five first and with how likely they are."""
    top = prediction.top(5)
    first = {index for index, _, _ in top}
    form = "{:.3g}" if prediction.features else "{:.1%}"
    likely: Choices = [(f"{label} · {form.format(value)}", index) for index, label, value in top]
    rest = [i for i in range(prediction.logits.shape[1]) if i not in first]
    return likely + [(prediction.label(i), i) for i in rest]


def _bars(prediction: Prediction) -> Panel:
    rows = [(label, value) for _, label, value in prediction.top(5)]
    if prediction.features:
        return bars_panel(
            rows,
            title="Strongest features",
            caption="This model has no classes. Click a bar to explain that feature.",
            shares=False,
        )
    return bars_panel(rows, title="Prediction", caption="Click a bar to explain that class.")

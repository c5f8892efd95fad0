"""The question that all tabs share: a picture, a model and a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol

from core import METHODS, Explainer
from core.errors import CancelledError, NotApplicableError, TimmscopeError, UnknownNameError, WayOut
from core.inputs.batch import InputBatch, OnProgress
from core.methods.configuration import label_of
from core.models.handle import ModelHandle
from core.registry import Parameters, key_of
from core.tasks.base import Target
from core.tasks.segmentation import Segmentation
from core.types import Comparison, Cost, Prediction
from core.views.panels import Panel
from dashboard.state import Service
from dashboard.state.models import FOUND

Choices = list[tuple[str, Any]]
"""Entries of a dropdown: what is shown, and the value."""
Settings = dict[str, dict[str, Any]]
"""Parameters that a person changed, by method or metric."""
ANY = "any"
"""Stands for all values of a field."""
WITHOUT_CLASS = dict.fromkeys(("target", "versus", "unit", "against"), ANY)
"""For results that do not depend on the class."""
NO_CLASS = -1
"""Stands for "no class" where a choice needs a value."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person asks about, on whatever tab.

    Attributes:
        picture: path of the uploaded picture.
        model: a timm name or ``hf-hub:owner/name``.
        weights: "pretrained" or "random".
        target: class index or label; None for the predicted class.
        versus: class index or label to compare with; None or `NO_CLASS` for none.
        unit: "logit" or "probability".
        activation: what the model's outputs are, a key of `core.tasks.activation`; `FOUND` for what
            the model says.
        measured_in: the unit of outputs that are numbers.
        against: whether what speaks against the class is explained.
        crop: the part of the picture that the model sees, as `core.inputs.crop.read_crop` reads
            it; empty or None for the model's own.
    """

    picture: str | None
    model: str
    weights: str
    target: int | str | None
    versus: int | str | None
    unit: str
    activation: str = FOUND
    measured_in: str = ""
    against: bool = False
    crop: str | None = None

    @property
    def has_versus(self) -> bool:
        """Whether the class is compared with another."""
        return self.versus not in (None, NO_CLASS, "")

    def with_target(self, predicted: int | str) -> Question:
        """The same question, with the predicted class where none was chosen."""
        target = predicted if self.target in (None, "") else self.target
        return replace(self, target=target, versus=self.versus if self.has_versus else None)

    def to_target(self, explainer: Explainer, predicted: int) -> Target:
        """The target asked for, given the predicted class.

        Raises:
            UnknownNameError: the model has no such class.
        """
        target = explainer.target(predicted if self.target in (None, "") else self.target)
        assert target is not None
        if self.has_versus:
            rival = self._rival(explainer)
            assert rival is not None
            target = target - rival
        if self.against:
            target = -target
        return target.probability() if self.unit == "probability" else target

    def _rival(self, explainer: Explainer) -> Target | None:
        """The class to compare with; what helps where there is none changes that class."""
        try:
            return explainer.target(self.versus)
        except UnknownNameError as error:
            error.ways_out = tuple(replace(way, field="versus") for way in error.ways_out)
            raise


Part = Literal["picture", "model", "prediction"]
"""What the left column shows of a question, each with room for what is wrong with it."""

POINTERS: Mapping[Part, str] = {
    "picture": "This picture cannot be used: see the note below it.",
    "model": "This model cannot be used: see the note below its settings.",
    "prediction": "There is no prediction to explain: see its card.",
}
"""What is said in all other places, so that an error is told once."""


class UnusableError(TimmscopeError):
    """A part of the question cannot be used; the left column says why.

    Attributes:
        part: which.
    """

    def __init__(self, part: Part, reason: str, ways_out: Iterable[WayOut] = ()) -> None:
        super().__init__(reason, ways_out)
        self.part: Part = part

    def __reduce__(self) -> tuple[type[UnusableError], tuple[Part, str, tuple[WayOut, ...]]]:
        return type(self), (self.part, str(self), self.ways_out)


@contextmanager
def using(part: Part) -> Iterator[None]:
    """A block whose errors concern one part of the question.

    Raises:
        UnusableError: the block raised a `TimmscopeError`, its `__cause__`.
    """
    try:
        yield
    except CancelledError:
        raise
    except TimmscopeError as error:
        raise UnusableError(part, str(error), error.ways_out) from error


def brief(error: TimmscopeError) -> str:
    """What to say of an error in a place that is not the one that tells it."""
    return POINTERS[error.part] if isinstance(error, UnusableError) else str(error)


@dataclass(frozen=True)
class Answers:
    """Which question a result answers, for the page to compare with what it asks now.

    Attributes:
        label: the question in a few words, such as "RISE, tiger cat"; empty for none.
        same: by field, values that mean the same, such as no class and the predicted one; `ANY`
            where the field makes no difference.
        settings: the methods and metrics whose settings matter; None for all.
        partial: of a map of some samples only, how far it was taken; else empty.
        painting: whether it is still being worked on.
        about: identifies an explanation; what is made from it, such as a verdict, tells it again.
    """

    label: str = ""
    same: Mapping[str, Sequence[Any] | str] = field(default_factory=dict)
    settings: Sequence[str] | None = None
    partial: str = ""
    painting: bool = False
    about: str = ""


class Answered(Protocol):
    """A result of an action, as an area of the page shows it."""

    @property
    def panels(self) -> list[Panel]:
        """The cards."""

    @property
    def answers(self) -> Answers:
        """Which question it answers."""


@dataclass(frozen=True)
class ResolvedQuestion:
    """A question with its model loaded and its picture decoded and classified.

    Attributes:
        question: as asked, with the predicted class where none was chosen.
        explainer: of the model.
        batch: the picture.
        prediction: of the picture.
        target: what is explained.
    """

    question: Question
    explainer: Explainer
    batch: InputBatch
    prediction: Prediction
    target: Target

    @property
    def target_name(self) -> str:
        """The target in words."""
        return self.target.describe(self.prediction)

    def answers(
        self,
        methods: Sequence[str],
        metrics: Sequence[str] = (),
        layer: str | None = None,
        same: Mapping[str, Sequence[Any] | str] = MappingProxyType({}),
    ) -> Answers:
        """What a result about this question answers.

        Args:
            methods: names of methods or configurations.
            metrics: keys of metrics.
            layer: the layer taken where none is chosen.
            same: by further field, values that mean the same; see `Answers`.
        """
        what = label_of(methods[0]) if len(methods) == 1 else f"{len(methods)} methods"
        alike: dict[str, Sequence[Any] | str] = {
            "target": [None, "", self.prediction.top(1)[0][0]],
            "versus": [None, "", NO_CLASS],
            "layer": layer_or_default(layer),
        }
        settings = [*map(key_of, methods), *metrics]
        return Answers(f"{what}, {self.target_name}", {**alike, **same}, settings)


def layer_or_default(layer: str | None, asked: str | None = None) -> list[Any]:
    """Values of the field that mean the same; the last is the layer taken.

    Args:
        layer: the layer taken; None where there is none.
        asked: the layer asked for. One that the model or the method does not have means its own
            choice.

    >>> layer_or_default("layer4"), layer_or_default("layer4", "bn2")
    ([None, '', 'layer4'], [None, '', 'bn2', 'layer4'])
    """
    return [*dict.fromkeys([None, "", *filter(None, [asked, layer])])]


def refuse_segmenters(handle: ModelHandle) -> None:
    """Refuse a model that the page cannot show yet.

    Raises:
        NotApplicableError: it segments.
        ModelError: how its outputs are read contradicts the model.
    """
    if isinstance(handle.task, Segmentation):
        raise NotApplicableError(
            f"{handle.name} segments pictures, and the page shows models that classify them; "
            "explain it in Python or on the command line (docs/segmentation.md), or choose a "
            "classifier"
        )


def load_and_predict(
    service: Service, question: Question, on_progress: OnProgress | None = None
) -> tuple[Explainer, InputBatch, Prediction]:
    """Load the model, decode the picture and predict; each only the first time.

    Raises:
        UnusableError: the picture or the model cannot be used, or gives no prediction.
        PictureError: there is no picture.
        CancelledError: the person no longer wants it.
    """
    with using("model"):
        explainer = service.models.of(question, on_progress)
        refuse_segmenters(explainer.model)
    with service.slow.held():
        with using("picture") if question.picture else nullcontext():
            batch = service.batches.get(explainer, question.picture, question.crop)
        with using("prediction"):
            return explainer, batch, explainer.predict(batch)


def resolve(
    service: Service, question: Question, on_progress: OnProgress | None = None
) -> ResolvedQuestion:
    """What `load_and_predict` finds, and the target asked for.

    Raises:
        TimmscopeError: the picture, the model or the class cannot be used.
        CancelledError: the person no longer wants it.
    """
    explainer, batch, prediction = load_and_predict(service, question, on_progress)
    if question.unit == "probability" and not prediction.bounded:
        raise NotApplicableError(
            f"the outputs of {explainer.model.name} are {prediction.kind}s without a probability; "
            "set Score to Logit."
        )
    predicted = prediction.top(1)[0][0]
    target = question.to_target(explainer, predicted)
    return ResolvedQuestion(question.with_target(predicted), explainer, batch, prediction, target)


def compare_methods(
    resolved: ResolvedQuestion,
    methods: Sequence[str],
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None,
) -> Comparison:
    """Several methods' attributions, with the parameters a person set.

    Args:
        resolved: the question.
        methods: names of methods or configurations, such as "lime(samples=200)"; what such a name
            sets goes before the settings.
        settings: parameters by method.
        layer: the layer of CAM methods; empty for the model's own choice.
        on_progress: called with the rows done and expected.
    """
    return resolved.explainer.compare(
        resolved.batch,
        list(methods),
        params=_params_by_method(methods, settings),
        target=resolved.target,
        layer=layer or None,
        on_progress=on_progress,
    )


def estimate_methods(
    resolved: ResolvedQuestion, methods: Sequence[str], settings: Settings, layer: str | None
) -> Cost:
    """What `compare_methods` costs at most, beyond the maps that are kept."""
    return resolved.explainer.estimate(
        resolved.batch,
        list(methods),
        params=_params_by_method(methods, settings),
        target=resolved.target,
        layer=layer or None,
    )


def _params_by_method(methods: Sequence[str], settings: Settings) -> dict[str, dict[str, Any]]:
    keys = {METHODS[key_of(name)].key for name in methods}
    return {key: params_of(settings, key, METHODS[key]) for key in keys}


def params_of(settings: Settings | None, key: str, cls: type[Parameters]) -> dict[str, Any]:
    """The parameters a person set for `key`, of those that it has."""
    given = settings.get(key) if isinstance(settings, Mapping) else None
    if not isinstance(given, Mapping):
        return {}
    return {name: value for name, value in given.items() if name in cls.model_fields}

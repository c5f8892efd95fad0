"""What methods there are, what each is good for, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from core import METHODS, ModelHandle
from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.methods.base import Method
from core.types import Need
from dashboard.actions.formatting import estimate_text
from dashboard.actions.question import Choices, Settings, params_of
from dashboard.state import Service
from dashboard.state.models import FOUND


@dataclass(frozen=True, slots=True)
class MethodRequest:
    """A method on a model.

    Attributes:
        model: a timm name or ``hf-hub:owner/name``.
        weights: "pretrained" or "random".
        method: the method's key.
        activation: what the model's outputs are; `FOUND` for what it says.
        measured_in: the unit of outputs that are numbers.
        layer: the layer chosen, which stays if the method can use it.
    """

    model: str
    weights: str
    method: str
    activation: str = FOUND
    measured_in: str = ""
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class EstimateRequest:
    """A method with its settings on a model.

    Attributes:
        model: a timm name or ``hf-hub:owner/name``.
        weights: "pretrained" or "random".
        method: the method's key.
        layer: the layer of the method; empty for its own choice.
        settings: parameters a person set.
        activation: what the model's outputs are; `FOUND` for what it says.
        measured_in: the unit of outputs that are numbers.
    """

    model: str
    weights: str
    method: str
    layer: str | None
    settings: Settings
    activation: str = FOUND
    measured_in: str = ""


@dataclass(frozen=True)
class MethodFacts:
    """What the page needs to know of a method on a model.

    Attributes:
        about: what it is good for, in Markdown, with the reason if the model cannot run it.
        methods: every method as (label, key); those the model cannot run say so.
        layers: the layers it can use.
        layer: the layer chosen, or else the one it uses by default.
    """

    about: str
    methods: Choices
    layers: list[str] = field(default_factory=list)
    layer: str | None = None


def method_choices(suits: Callable[[str], bool] = lambda key: True) -> Choices:
    """Every method as (label, key), family by family; those that do not suit come last."""
    keys = sorted(METHODS, key=lambda key: (not suits(key), METHODS[key].family.order))
    return [
        (_with_family(METHODS[key]) + ("" if suits(key) else " · not for this model"), key)
        for key in keys
    ]


def _with_family(cls: type[Method]) -> str:
    """The method's label after its family's, unless that would repeat a word."""
    family = cls.family.label
    named = cls.label.startswith(family) or f"({family.lower()})" in cls.label
    return cls.label if named else f"{family} · {cls.label}"


def why_not(handle: ModelHandle, key: str) -> str:
    """Why a model cannot be explained by a method with default parameters; empty if it can."""
    return METHODS.make(key).why_not(handle)


def layers_of(handle: ModelHandle, needs: Collection[Need]) -> list[str]:
    """The layers offered for a method with these needs, from early to late."""
    depth = {name: i for i, name in enumerate([*handle.layers, *handle.attention_layers])}
    return sorted(handle.choices(needs), key=depth.__getitem__)


def supports(service: Service, model: str, weights: str) -> frozenset[Need] | None:
    """What methods need and a model has; None while it is not loaded, or if it cannot be.

    Args:
        service: holds the models.
        model: a timm name or ``hf-hub:owner/name``.
        weights: "pretrained" or "random".
    """
    if not service.models.is_ready(model, weights):
        return None
    with suppress(TimmscopeError):
        return service.models.get(model, weights).model.supports
    return None


def describe_method(
    service: Service, request: MethodRequest, on_progress: OnProgress | None = None
) -> MethodFacts:
    """What a method is good for, and which layers of a model it can use.

    Raises:
        TimmscopeError: the model cannot be loaded, or there is no such method.
    """
    handle = service.models.of(request, on_progress).model
    about, methods = METHODS[request.method].about, method_choices(lambda k: not why_not(handle, k))
    if reason := why_not(handle, request.method):
        about = f"{about}\n\n**Not for this model:** {reason.rstrip('.')}."
        return MethodFacts(about, methods)
    needs = METHODS.make(request.method).layer_needs()
    layers = layers_of(handle, needs)
    kept = request.layer if request.layer in layers else None
    return MethodFacts(about, methods, layers, handle.resolve_layer(needs, kept))


def estimate(
    service: Service, request: EstimateRequest, on_progress: OnProgress | None = None
) -> str:
    """How long a method takes on a model; empty where it cannot run, or before it is loaded.

    It never waits for a model, so it can be asked outside the queue.

    Raises:
        TimmscopeError: the model could not be loaded, or a parameter is out of range.
    """
    if not service.models.is_ready(request.model, request.weights):
        return ""
    handle = service.models.of(request, on_progress).model
    key = request.method
    method = METHODS.make(key, params_of(request.settings, key, METHODS[key]))
    if method.why_not(handle):
        return ""
    needs = method.layer_needs()
    layer = request.layer if request.layer in handle.choices(needs) else None
    return estimate_text(method.estimate_cost(handle, handle.resolve_layer(needs, layer)))

"""Every method as the page offers it: family by family, with what it costs on a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from core import METHODS, ModelHandle
from core.inputs.batch import OnProgress
from dashboard.actions.formatting import estimate_text
from dashboard.actions.methods import why_not
from dashboard.actions.model import ModelRequest
from dashboard.state import Service


@dataclass(frozen=True)
class MethodCard:
    """A method as the page offers it.

    Attributes:
        key: of the method.
        label: its name.
        about: what it is good for.
        cost: how long it takes, as estimated.
        seconds: how long it took on this model the last time; None if it has not been asked.
        reason: why the model cannot run it; empty if it can.
    """

    key: str
    label: str
    about: str
    cost: str
    seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class MethodGroup:
    """A family of methods.

    Attributes:
        name: of the family.
        about: how its methods arrive at a map.
        methods: those the model can run, in the order of the registry.
    """

    name: str
    about: str
    methods: list[MethodCard]


@dataclass(frozen=True)
class MethodGuide:
    """Every method for a model.

    Attributes:
        groups: what the model can run, by family.
        refused: what it cannot, with the reasons.
        note: why there is neither.
    """

    groups: list[MethodGroup] = field(default_factory=list)
    refused: list[MethodCard] = field(default_factory=list)
    note: str = ""


def method_guide(
    service: Service, request: ModelRequest, on_progress: OnProgress | None = None
) -> MethodGuide:
    """Every method, with what it is good for and how long it takes on a model.

    Raises:
        TimmscopeError: the model cannot be loaded.
    """
    handle = service.models.of(request, on_progress).model
    cards = {key: _card(service, request, handle, key) for key in METHODS}
    groups = [
        MethodGroup(
            family.label,
            family.description,
            [card for key, card in cards.items() if METHODS[key].family is family],
        )
        for family in sorted({cls.family for cls in METHODS.values()}, key=lambda one: one.order)
    ]
    fit = [
        replace(group, methods=[card for card in group.methods if not card.reason])
        for group in groups
    ]
    refused = [card for group in groups for card in group.methods if card.reason]
    return MethodGuide([group for group in fit if group.methods], refused)


def _card(service: Service, request: ModelRequest, handle: ModelHandle, key: str) -> MethodCard:
    cls = METHODS[key]
    if reason := why_not(handle, key):
        return MethodCard(key, cls.label, cls.about, "", reason=reason)
    method = METHODS.make(key)
    cost = method.estimate_cost(handle, handle.resolve_layer(method.layer_needs(), None))
    took = service.times.of(request.model, request.weights, key)
    return MethodCard(key, cls.label, cls.about, estimate_text(cost), took)

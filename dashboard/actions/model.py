"""Loading a model, and what it offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from core import ModelHandle
from core.inputs.batch import OnProgress
from core.synthetic import SYNTHETIC_MODELS
from core.types import Need, OutputKind
from dashboard.actions.methods import method_choices, why_not
from dashboard.actions.question import Choices
from dashboard.state import Service
from dashboard.state.models import FOUND


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model.

    Attributes:
        model: a timm name or ``hf-hub:owner/name``.
        weights: "pretrained" or "random".
        activation: what its outputs are; `FOUND` for what it says.
        measured_in: the unit of outputs that are numbers.
    """

    model: str
    weights: str
    activation: str = FOUND
    measured_in: str = ""


@dataclass(frozen=True, slots=True)
class OffersRequest(ModelRequest):
    """A model of which a tab needs to know what can be chosen.

    Attributes:
        layer: the layer chosen; empty for the default one.
    """

    layer: str | None = None


@dataclass(frozen=True)
class ModelStatus:
    """What the page says of the chosen model.

    Attributes:
        text: a sentence or two.
        loading: whether it is still being loaded.
    """

    text: str
    loading: bool = False


@dataclass(frozen=True)
class ModelOffers:
    """What can be chosen for a model.

    Attributes:
        methods: every method as (label, key); those the model cannot run say so.
        layers: layers on a grid, the stages first: a long list shows its first entries only.
        has_layer: whether the layer that was chosen is among them; so is the default one.
    """

    methods: Choices = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    has_layer: bool = True


def open_model(
    service: Service, request: ModelRequest, on_progress: OnProgress | None = None
) -> Iterator[ModelStatus]:
    """Load a model and say what it is; where that takes time, say first that it is loading.

    Raises:
        TimmscopeError: it cannot be loaded.
    """
    if not service.models.is_ready(request.model, request.weights):
        yield ModelStatus(f"Loading {request.model} …", loading=True)
    handle = service.models.of(request, on_progress).model
    yield ModelStatus(summary(handle))


def describe_model(
    service: Service, request: OffersRequest, on_progress: OnProgress | None = None
) -> ModelOffers:
    """What can be chosen for a model.

    Raises:
        TimmscopeError: it cannot be loaded.
    """
    handle = service.models.of(request, on_progress).model
    layers = handle.choices([Need.LAYER])
    return ModelOffers(
        methods=method_choices(lambda key: not why_not(handle, key)),
        layers=layers,
        has_layer=not request.layer or request.layer in layers,
    )


def knows_scenes(model: str) -> bool:
    """Whether a model, by its name, knows generated scenes and no photographs."""
    return model.strip() in SYNTHETIC_MODELS


OUTPUT_WORDS: Mapping[OutputKind, str] = {
    "class": "classes ({})",
    "output": "predicted numbers",
    "feature": "features, no classes",
}
"""What a model's outputs are called, with the activation of classes."""


def summary(handle: ModelHandle) -> str:
    """Size, outputs, input and weights of a model."""
    millions = sum(p.numel() for p in handle.model.parameters()) / 1e6
    height, width = handle.preprocessing.input_size[1:]
    kind = OUTPUT_WORDS[handle.task.kind].format(handle.task.activation.key)
    device = "the CPU" if handle.device.type == "cpu" else str(handle.device).upper()
    return (
        f"{millions:,.1f} M parameters; {handle.outputs:,} {kind}; input {width} × {height} "
        f"pixels. {_weights(handle.source)}; on {device}."
    )


def _weights(source: str) -> str:
    """Where the weights come from."""
    if source == "embedded":
        return "Weights included"
    return source.capitalize() if source.startswith("random") else f"Weights from {source}"

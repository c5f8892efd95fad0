"""The feature maps of a layer, and the attention of its heads."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.analysis.features import FeatureMaps
from core.inputs.batch import OnProgress
from core.types import Need
from core.views.colour import is_signed, limits
from core.views.maps import map_panel, overlay_panel, picture_uri
from core.views.panels import Panel
from dashboard.actions.question import (
    WITHOUT_CLASS,
    Answers,
    Question,
    layer_or_default,
    resolve,
)
from dashboard.state import Service


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The channels of a layer that respond most.

    Attributes:
        question: picture and model.
        layer: empty for the default one.
        by: rank channels by mean "activation" or by spatial "variance".
        top: how many channels.
    """

    question: Question
    layer: str | None
    by: str
    top: int


@dataclass(frozen=True, slots=True)
class AttentionRequest:
    """The attention heads of a layer.

    Attributes:
        question: picture and model.
        layer: empty for the default one.
        query: whose attention: "auto", "class", "mean", or a patch number.
    """

    question: Question
    layer: str | None
    query: str


@dataclass(frozen=True)
class FeatureResult:
    """A layer's feature maps, or its attention heads.

    Attributes:
        panels: a small map each.
        summary: what they show, in Markdown.
        answers: which question it answers.
    """

    panels: list[Panel]
    summary: str
    answers: Answers = field(default_factory=Answers)


def features(
    service: Service, request: FeatureRequest, on_progress: OnProgress | None = None
) -> FeatureResult:
    """The channels of a layer that respond most.

    Raises:
        TimmscopeError: the layer has no feature maps.
    """
    resolved = resolve(service, request.question, on_progress)
    found = resolved.explainer.features(
        resolved.batch,
        layer=request.layer or None,
        top=int(request.top),
        by="variance" if request.by == "variance" else "activation",
        on_progress=on_progress,
    )
    signed = is_signed(found.maps)
    panels = [
        map_panel(values.numpy(), f"channel {int(channel)}", limits=limits(values, signed=signed))
        for values, channel in zip(found.maps, found.channels, strict=True)
    ]
    answers = _answers("channels", found.layer)
    return FeatureResult(panels, _statistics(found), answers)


def _statistics(found: FeatureMaps) -> str:
    height, width = found.maps.shape[1:]
    return (
        f"**{found.layer}**: {found.total:,} channels of {width} × {height}, of which "
        f"{found.active:,} are active. Mean {found.mean:.3g}, standard deviation {found.std:.3g}, "
        f"sparsity {found.sparsity:.1%} (share of values below 1% of the largest)."
    )


def attention(
    service: Service, request: AttentionRequest, on_progress: OnProgress | None = None
) -> FeatureResult:
    """The attention of each head of a layer, over the picture.

    Raises:
        TimmscopeError: the layer has no attention maps, or there is no such query token.
    """
    resolved = resolve(service, request.question, on_progress)
    layer = resolved.explainer.model.resolve_layer([Need.ATTENTION], request.layer or None)
    heads = resolved.explainer.attention(
        resolved.batch,
        layer=layer,
        query=request.query.strip() or "auto",
        on_progress=on_progress,
    )
    uri = picture_uri(resolved.batch.pictures[0].image, side=480)
    panels = [
        overlay_panel(
            uri,
            head.numpy(),
            resolved.batch.geometries[0],
            title=f"head {i}",
            smooth=False,
            colorbar=False,
        )
        for i, head in enumerate(heads)
    ]
    summary = f"{len(heads)} heads. Each map shows where the query token attends."
    answers = _answers("attention", layer)
    return FeatureResult(panels, summary, answers)


def _answers(what: str, layer: str | None) -> Answers:
    """They depend on no class and no settings."""
    same = {**WITHOUT_CLASS, "layer": layer_or_default(layer)}
    return Answers(f"{what} of {layer}", same, settings=[])

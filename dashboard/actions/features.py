"""The feature maps of a layer, over the picture."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.analysis.features import FeatureMaps
from core.inputs.batch import OnProgress
from core.views.colour import is_signed, limits
from core.views.maps import overlay_panel, picture_uri
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


@dataclass(frozen=True)
class FeatureResult:
    """A layer's feature maps.

    Attributes:
        panels: a map over the picture each.
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
    with service.slow.held(on_progress) as on_step:
        found = resolved.explainer.features(
            resolved.batch,
            layer=request.layer or None,
            top=int(request.top),
            by="variance" if request.by == "variance" else "activation",
            on_progress=on_step,
        )
    signed, geometry = is_signed(found.maps), resolved.batch.geometries[0]
    picture = picture_uri(resolved.batch.pictures[0].image)
    source = f"{found.layer} of {resolved.explainer.model.name}"
    panels = [
        overlay_panel(
            picture,
            values.numpy(),
            geometry,
            title=f"channel {int(channel)}",
            caption=f"{source}, {float(values.min()):.3g} to {float(values.max()):.3g}",
            limits=limits(values, signed=signed),
            colorbar=False,
        )
        for values, channel in zip(found.maps, found.channels, strict=True)
    ]
    same = {**WITHOUT_CLASS, "layer": layer_or_default(found.layer)}
    answers = Answers(f"channels of {found.layer}", same, settings=[])
    return FeatureResult(panels, _statistics(found), answers)


def _statistics(found: FeatureMaps) -> str:
    height, width = found.maps.shape[1:]
    return (
        f"**{found.layer}**: {found.total:,} channels of {width} × {height}, of which "
        f"{found.active:,} are active. Mean {found.mean:.3g}, standard deviation {found.std:.3g}, "
        f"sparsity {found.sparsity:.1%} (share of values below 1% of the largest)."
    )

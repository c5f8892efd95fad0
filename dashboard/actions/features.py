"""What a layer's channels respond to, and where its attention heads look."""

from __future__ import annotations

from dataclasses import dataclass

from core.analysis.features import FeatureMaps
from core.errors import CancelledError, TimmscopeError
from core.inputs.batch import OnProgress
from core.views.colour import is_signed, limits
from core.views.maps import map_panel, overlay_panel, picture_uri
from core.views.panels import Panel
from dashboard.actions.question import ask, trouble
from dashboard.state import Question, Service


@dataclass(frozen=True)
class Featured:
    """A layer's feature maps, or a layer's heads.

    Attributes:
        panels: a small map each.
        summary: statistics of the whole layer, in Markdown.
        question: the one answered, with the class explained; None if there is no answer.
    """

    panels: list[Panel]
    summary: str = ""
    question: Question | None = None


def features(
    service: Service,
    question: Question,
    layer: str | None,
    top: int,
    by: str,
    on_progress: OnProgress | None = None,
) -> Featured:
    """The channels of a layer that respond most."""
    try:
        asked = ask(service, question, on_progress)
        found = asked.explainer.features(
            asked.batch,
            layer=layer,
            top=int(top),
            by="variance" if by == "variance" else "activation",
            on_progress=on_progress,
        )
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Featured([trouble("No feature maps", question, error)])
    signed = is_signed(found.maps)
    panels = [
        map_panel(values.numpy(), f"channel {int(channel)}", limits=limits(values, signed=signed))
        for values, channel in zip(found.maps, found.channels, strict=True)
    ]
    return Featured(panels, _statistics(found), asked.question)


def _statistics(found: FeatureMaps) -> str:
    height, width = found.maps.shape[1:]
    return (
        f"**{found.layer}**: {found.total} channels of {width} x {height}, {found.active} active. "
        f"Mean {found.mean:.3g}, standard deviation {found.std:.3g}, sparsity {found.sparsity:.1%} "
        "(values under 1% of the largest)."
    )


def attention(
    service: Service,
    question: Question,
    layer: str | None,
    query: str,
    on_progress: OnProgress | None = None,
) -> Featured:
    """Where each head of a layer looks, over the picture."""
    try:
        asked = ask(service, question, on_progress)
        heads = asked.explainer.attention(
            asked.batch, layer=layer, query=query.strip() or "auto", on_progress=on_progress
        )
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Featured([trouble("No attention maps", question, error)])
    uri = picture_uri(asked.batch.pictures[0].image, side=480)
    panels = [
        overlay_panel(
            uri,
            head.numpy(),
            asked.batch.geometries[0],
            title=f"head {i}",
            smooth=False,
            colorbar=False,
        )
        for i, head in enumerate(heads)
    ]
    said = f"{len(heads)} heads; each map is what the query token attends to."
    return Featured(panels, said, asked.question)

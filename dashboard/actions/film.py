"""One method's map at each stage of the model, from early to late."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.errors import NotApplicableError
from core.inputs.batch import OnProgress
from core.types import Need
from core.views.maps import STAGE_SIDE, picture_uri
from core.views.panels import Panel
from dashboard.actions.code_snippet import code_snippet, command_line
from dashboard.actions.explain import (
    ExplainRequest,
    configuration_of,
    estimated_cost,
    overlay,
    summary,
)
from dashboard.actions.question import resolve
from dashboard.state import Service

MOST_STOPS = 8
"""How many stages are shown; of more, the last ones."""


@dataclass(frozen=True)
class Stop:
    """The map at one layer.

    Attributes:
        layer: the layer's name.
        text: its grid and how many channels it has.
        panel: the map over the picture.
        summary: how far the map can be believed, in Markdown.
        code: Python that gives the same map, and draws it.
        command: the command line that does the same.
    """

    layer: str
    text: str
    panel: Panel
    summary: str
    code: str
    command: str


@dataclass(frozen=True)
class FilmResult:
    """Maps from early to late layers.

    Attributes:
        stops: one for each stage; empty where the method looks at no layer, or is not instant.
        chosen: the layer of the map on the stage.
        about: the `ExplainRequest.identity` of that map.
    """

    stops: list[Stop] = field(default_factory=list)
    chosen: str | None = None
    about: str = ""


def film(
    service: Service, explanation: ExplainRequest | None, on_progress: OnProgress | None = None
) -> FilmResult:
    """The method's map at each stage; one pass for all of them.

    Raises:
        TimmscopeError: the picture or the model cannot be used.
    """
    if explanation is None:
        return FilmResult()
    resolved = resolve(service, explanation.question, on_progress)
    method = configuration_of(explanation).method
    try:
        slow = estimated_cost(resolved, explanation).pace != "instant"
    except NotApplicableError:
        return FilmResult()
    stages = resolved.explainer.model.stages()[-MOST_STOPS:]
    if slow or Need.LAYER not in method.layer_needs() or len(stages) < 2:
        return FilmResult()
    with service.slow.held(on_progress) as on_step:
        found = resolved.explainer.explain_layers(
            resolved.batch,
            method,
            [layer.name for layer in stages],
            target=resolved.target,
            on_progress=on_step,
        )
    uri, stops = picture_uri(resolved.batch.pictures[0].image, STAGE_SIDE), []
    for layer in stages:
        assert layer.layout is not None
        height, width = layer.layout.grid
        text = f"{width} × {height}, {layer.layout.channels:,} channels"
        one = found[layer.name]
        panel = overlay(resolved, one, uri)
        snippets = code_snippet(resolved, one), command_line(resolved, one)
        stops.append(Stop(layer.name, text, panel, summary(one), *snippets))
    default = resolved.explainer.model.resolve_layer(method.layer_needs(), None)
    return FilmResult(stops, explanation.layer or default, explanation.identity)

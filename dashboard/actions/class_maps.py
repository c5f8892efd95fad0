"""A small map for each of the likeliest classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from core import METHODS, Attribution
from core.errors import NotApplicableError
from core.evaluation.classes import likeliest
from core.export import colour_range, map_on_input
from core.inputs.batch import OnProgress
from core.methods.configuration import Configuration
from core.registry import key_of
from core.views.display import drawn
from core.views.maps import overlay_panel, picture_uri
from core.views.panels import Panel
from dashboard.actions.explain import (
    ExplainRequest,
    configuration_of,
    estimated_cost,
    suitable_layer,
)
from dashboard.actions.question import (
    ANY,
    NO_CLASS,
    Answers,
    ResolvedQuestion,
    layer_or_default,
    resolve,
)
from dashboard.state import Service

DEFAULT_METHOD = "gradcam"
"""What is shown where the method chosen takes longer, or cannot explain the model."""
SIDE = 192
"""Pixels of the longer side of the picture that is sent along."""
FINEST = 56
"""Cells of a small map along a side, at most."""


@dataclass(frozen=True)
class ClassMaps:
    """Small maps of the likeliest classes.

    Attributes:
        classes: the classes.
        panels: the map of each over the picture.
        note: how they were made, or why there are none.
        answers: which question they answer.
    """

    classes: list[int] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    note: str = ""
    answers: Answers = field(default_factory=Answers)


def class_maps(
    service: Service, request: ExplainRequest, on_progress: OnProgress | None = None
) -> ClassMaps:
    """The map of each of the five likeliest classes, by the method chosen if it is instant.

    Raises:
        TimmscopeError: the picture or the model cannot be used.
    """
    question = replace(request.question, target=None, versus=NO_CLASS, against=False)
    request = replace(request, question=question, stop_after=None)
    resolved = resolve(service, question, on_progress)
    configuration, note = _instant(resolved, request)
    explainer, classes = resolved.explainer, list(likeliest(resolved.prediction))
    targets = [question.to_target(explainer, index) for index in classes]
    with service.slow.held(on_progress) as on_step:
        found = explainer.explain_classes(
            resolved.batch,
            configuration,
            targets,
            layer=suitable_layer(explainer, configuration.method, request.layer),
            on_progress=on_step,
        )
    maps = dict(zip(classes, found.values(), strict=True))
    if len(maps) > 1:
        same = _all_alike(maps)
        note += ", the same for every class" if same else ". Each has its own colour range."
    return ClassMaps(classes, _panels(resolved, maps), note, _answers(request, maps))


def _instant(resolved: ResolvedQuestion, request: ExplainRequest) -> tuple[Configuration, str]:
    """The method of the small maps, and what is to be said of it."""
    chosen = METHODS[configuration_of(request).method.key].label
    try:
        if estimated_cost(resolved, request).pace == "instant":
            return configuration_of(request), f"Small maps: {chosen}"
        reason = f"{chosen} takes longer"
    except NotApplicableError:
        reason = f"{chosen} cannot explain this model"
    default = replace(request, method=DEFAULT_METHOD)
    resolved.explainer.require_runnable(configuration_of(default).method)
    label = METHODS[DEFAULT_METHOD].label
    return configuration_of(default), f"Small maps: {label}, because {reason}"


def _answers(request: ExplainRequest, maps: Mapping[int, Attribution]) -> Answers:
    """They are true whichever class is chosen, and for the layer taken if none is."""
    layer = next((one.layer for one in maps.values()), None)
    same = {
        "target": ANY,
        "versus": ANY,
        "against": ANY,
        "layer": layer_or_default(layer, request.layer),
    }
    return Answers("small maps", same, [METHODS[key_of(request.method)].key])


def _all_alike(maps: Mapping[int, Attribution]) -> bool:
    first, *others = maps.values()
    return all(torch.equal(one.values, first.values) for one in others)


def _panels(resolved: ResolvedQuestion, maps: Mapping[int, Attribution]) -> list[Panel]:
    """The maps over one small picture; grainy ones are smoothed, as on the stage."""
    batch = resolved.batch
    uri = picture_uri(batch.pictures[0].image, side=SIDE)
    return [
        overlay_panel(
            uri,
            _small(drawn(map_on_input(batch, found))),
            batch.geometries[0],
            title=resolved.prediction.label(index),
            limits=colour_range(found),
            colorbar=False,
        )
        for index, found in maps.items()
    ]


def _small(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map (h, w) of at most `FINEST` cells along a side, each the mean of what it covers."""
    height, width = values.shape
    grid = min(height, FINEST), min(width, FINEST)
    small: NDArray[np.float32] = adaptive_avg_pool2d(torch.tensor(values)[None], grid)[0].numpy()
    return small

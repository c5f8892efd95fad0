"""What a touched patch is like and attends to: all of it, packed for the browser."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.analysis.patches import PatchLayer
from core.inputs.batch import OnProgress
from core.inputs.preprocessing import Geometry
from core.views.maps import overlay_panel, pack, picture_uri
from core.views.panels import Panel
from dashboard.actions.question import WITHOUT_CLASS, Answers, Question, resolve
from dashboard.state import Service


@dataclass(frozen=True, slots=True)
class PatchRequest:
    """Everything about the patches of a picture.

    Attributes:
        question: picture and model.
    """

    question: Question


@dataclass(frozen=True)
class PatchResult:
    """What every layer says of every pair of patches.

    Attributes:
        panels: the picture, under a map without values.
        touch: by "similarity" and "attention" the packed layers, see `packed`; `box`, the part of
            the picture that the model sees; `reasons` and `notes` as in `PatchMaps`.
        answers: which question it answers.
    """

    panels: list[Panel]
    touch: dict[str, Any]
    answers: Answers = field(default_factory=Answers)


def patches(
    service: Service, request: PatchRequest, on_progress: OnProgress | None = None
) -> PatchResult:
    """What every layer says of every pair of patches, so that a browser can show any of them.

    Raises:
        TimmscopeError: no layer lies on the picture.
    """
    resolved = resolve(service, request.question, on_progress)
    with service.slow.held(on_progress) as on_step:
        found = resolved.explainer.patches(resolved.batch, on_progress=on_step)
    geometry = resolved.batch.geometries[0]
    touch = {
        "similarity": [packed(layer) for layer in found.similarity],
        "attention": [packed(layer) for layer in found.attention],
        "box": list(geometry.box),
        "reasons": {
            kind: f"No {kind}: {reason.rstrip('.')}." for kind, reason in found.reasons.items()
        },
        "notes": list(found.notes),
    }
    answers = Answers(f"patches in {resolved.explainer.model.name}", WITHOUT_CLASS, settings=[])
    picture = picture_uri(resolved.batch.pictures[0].image)
    return PatchResult([_empty_map(picture, geometry)], touch, answers)


def packed(layer: PatchLayer) -> dict[str, Any]:
    """A layer as plain values for `patch.js`.

    Each row takes a byte for each value, from `floor` to the row's own `peak`, because an attention
    weight is often a hundredth of the largest one in its layer. So a value is known to within
    (peak - floor) / 510.
    """
    values = layer.values.numpy().astype(np.float64)
    floor = min(float(values.min()), 0.0)
    peaks = np.maximum(values.max(2), floor + 1e-12)
    steps = (values - floor) / (peaks[..., None] - floor) * 255
    return {
        "layer": layer.layer,
        "kind": layer.kind,
        "heads": layer.heads,
        "grid": list(layer.grid),
        "keys": list(layer.key_grid),
        "tokens": list(layer.tokens),
        "window": layer.window,
        "floor": floor,
        "peak": pack(peaks),
        "values": base64.b64encode(steps.round().astype(np.uint8).tobytes()).decode("ascii"),
    }


def _empty_map(picture: str, geometry: Geometry) -> Panel:
    """The picture under a map that the browser fills."""
    shown = overlay_panel(picture, np.zeros((2, 2)), geometry, smooth=False)
    shown["figure"]["layout"]["dragmode"] = False
    return shown

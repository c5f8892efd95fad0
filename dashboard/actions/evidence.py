"""Where the evidence is, as a person marks it: on the picture, as a box, or by a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from core import METRICS
from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.inputs.ground_truth import boxed, parse_box
from core.inputs.mask_canvas import Mask
from core.metrics.base import MetricInput
from core.views.maps import picture_uri
from dashboard.actions.question import Question, ResolvedQuestion, resolve
from dashboard.state import Service

MOST_MARKS = 500
"""The most boxes and strokes of a drawing."""
MOST_PAINTED = 100
"""The most pixels that its strokes paint, as a multiple of the picture's."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the evidence is.

    A file overrides a drawing, and a drawing overrides a box.

    Attributes:
        box: "left, top, right, bottom" in pixels of the picture; empty for none.
        file: path of an uploaded mask or annotation; None for none.
        label: of a file, only objects of this class; empty for all.
        drawing: marks on the picture as JSON, see `mask_of`; empty for none.
    """

    box: str | None = ""
    file: str | None = None
    label: str | None = ""
    drawing: str | None = ""


UNKNOWN = Evidence()
"""Nobody has marked the evidence."""


def metrics_on_evidence() -> list[str]:
    """The labels of the metrics that need to know where the evidence is."""
    return [cls.label for cls in METRICS.values() if MetricInput.GROUND_TRUTH in cls.needs]


def ground_truth_of(resolved: ResolvedQuestion, evidence: Evidence) -> Tensor | None:
    """The evidence over the model's input; None where nobody has marked it.

    A box is read as numbers and nothing else: visitors of the page must not reach the disk.

    Raises:
        TimmscopeError: it cannot be read, or marks nothing that the model sees.
    """
    if evidence.file:
        name = (evidence.label or "").strip() or None
        return resolved.explainer.ground_truth(resolved.batch, Path(evidence.file), label=name)
    height, width = resolved.batch.geometries[0].picture
    mask = mask_of(evidence.drawing, (height, width))
    if mask is not None:
        return resolved.explainer.ground_truth(resolved.batch, mask)
    if box := (evidence.box or "").strip():
        return resolved.explainer.ground_truth(resolved.batch, [parse_box(box)])
    return None


def drawing_canvas(
    service: Service, question: Question, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """The picture to draw on, turned as the model sees it: a data URI, its width and height.

    Raises:
        TimmscopeError: there is no picture, or it cannot be read.
    """
    picture = resolve(service, question, on_progress).batch.pictures[0].image
    width, height = picture.size
    return {"picture": picture_uri(picture), "width": width, "height": height}


def mask_of(drawing: str | None, size: tuple[int, int]) -> Mask | None:
    """The mask (H, W) of what is marked on a picture; None if nothing is.

    Args:
        drawing: JSON with a list `marks`, in pixels of the picture: each has a `box` of left, top,
            right and bottom, or a `stroke`, a list of points (x, y), of the diameter `size`.
        size: height and width of the picture.

    Raises:
        TimmscopeError: it is no such drawing, or a limit is exceeded.

    >>> mask_of('{"marks": [{"box": [0, 0, 2, 1]}]}', (2, 3)).astype(int).tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    if not drawing:
        return None
    try:
        marks = _Drawing.model_validate_json(drawing).marks
    except ValidationError as error:
        raise TimmscopeError(
            f"The drawing cannot be read ({error.error_count()} errors); draw the evidence again."
        ) from None
    painted = sum(len(mark.stroke) * mark.size**2 for mark in marks)
    if len(marks) > MOST_MARKS or painted > MOST_PAINTED * size[0] * size[1]:
        raise TimmscopeError(
            "There is too much in the drawing; mark the evidence with fewer or smaller strokes."
        )
    if not marks:
        return None
    mask = boxed([mark.box for mark in marks if mark.box is not None], size)
    return mask | _painted([mark for mark in marks if mark.stroke], size)


Point = tuple[float, float]


class _Mark(BaseModel):
    """A box, or a stroke of a brush."""

    model_config = ConfigDict(allow_inf_nan=False)

    box: tuple[float, float, float, float] | None = None
    stroke: list[Point] = Field(default_factory=list)
    size: float = Field(1.0, gt=0, le=10_000)


class _Drawing(BaseModel):
    """What the page sends."""

    marks: list[_Mark] = Field(default_factory=list)


def _painted(strokes: Sequence[_Mark], size: tuple[int, int]) -> Mask:
    """The mask (H, W) of strokes with round ends."""
    canvas = PIL.Image.new("1", (size[1], size[0]))
    pen = PIL.ImageDraw.Draw(canvas)
    longest = 2.0 * max(size)
    for mark in strokes:
        width = min(mark.size, longest)
        points = [
            (min(max(x, -longest), longest), min(max(y, -longest), longest)) for x, y in mark.stroke
        ]
        pen.line(points, fill=1, width=max(1, round(width)))
        for x, y in points:
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=1)
    return np.asarray(canvas)

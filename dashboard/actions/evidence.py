"""Where the evidence is, as a person marks it: a box, a file, or a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from core import METRICS
from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.inputs.ground_truth import parse_box
from core.inputs.image import open_picture
from core.metrics.base import MetricInput
from dashboard.actions.question import Question, ResolvedQuestion, resolve
from dashboard.state import Service

MIN_OPACITY = 16
"""A pixel is part of a drawing from this opacity on, of 255."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the evidence is.

    Attributes:
        box: "left, top, right, bottom" in pixels of the picture; empty for none.
        file: path of an uploaded mask or annotation; None for none. A file overrides the box.
        label: of a file, only objects of this class; empty for all.
    """

    box: str | None = ""
    file: str | None = None
    label: str | None = ""


UNKNOWN = Evidence()
"""Nobody has marked the evidence."""


@dataclass(frozen=True, slots=True)
class DrawingRequest:
    """A mask to be made from a drawing.

    Attributes:
        question: the picture.
        drawing: path of the painted layer, a picture that is transparent where nothing is
            painted; None if nothing is.
    """

    question: Question
    drawing: str | None


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
    if box := (evidence.box or "").strip():
        return resolved.explainer.ground_truth(resolved.batch, [parse_box(box)])
    return None


def drawing_canvas(
    service: Service, question: Question, on_progress: OnProgress | None = None
) -> NDArray[np.uint8]:
    """(H, W, 3) the picture to draw on, turned as the model sees it.

    Raises:
        TimmscopeError: there is no picture, or it cannot be read.
    """
    picture = resolve(service, question, on_progress).batch.pictures[0].image
    return np.asarray(picture.convert("RGB"))


def save_drawing(
    service: Service, request: DrawingRequest, on_progress: OnProgress | None = None
) -> str:
    """A mask file from what was painted over the picture; its path.

    Raises:
        TimmscopeError: nothing is painted, or the file is no such picture.
    """
    size = resolve(service, request.question, on_progress).batch.pictures[0].image.size
    mask = _painted(request.drawing) if request.drawing is not None else None
    if mask is None:
        raise TimmscopeError("Nothing is drawn yet. Paint over the evidence first.")
    path = service.files.new_folder() / "drawing.png"
    mask.resize(size, PIL.Image.Resampling.NEAREST).save(path)
    return str(path)


def _painted(drawing: str) -> PIL.Image.Image | None:
    """255 where a layer is painted, 0 elsewhere; None if it is painted nowhere."""
    open_picture(drawing)  # refuses what is no picture, or too large a one
    with PIL.Image.open(drawing) as layer:
        if "A" not in layer.getbands():
            return None
        mask = layer.getchannel("A").point(lambda opacity: 255 * (opacity >= MIN_OPACITY))
    return mask if mask.getbbox() is not None else None

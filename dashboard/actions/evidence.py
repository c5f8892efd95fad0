"""Where the evidence is, as a person tells the page: a box, a file, or a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from core.errors import TimmscopeError
from core.inputs.ground_truth import parse_box
from core.inputs.image import open_picture
from dashboard.actions.question import Asked, ask
from dashboard.state import Question, Service

DRAWN = 16
"""A pixel is part of a drawing from this opacity on, of 255."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a person says of where the evidence is.

    Attributes:
        box: "left, top, right, bottom" in pixels of the picture; empty for none.
        file: path of an uploaded mask or annotation; None for none. It counts before the box.
        label: of a file, only objects of this class; empty for all.
    """

    box: str = ""
    file: str | None = None
    label: str = ""


UNKNOWN = Evidence()
"""Nothing is said of it."""


def ground_truth_of(asked: Asked, evidence: Evidence) -> Tensor | None:
    """The evidence over the model's input; None where nothing is said of it.

    A box is read as numbers and nothing else: whoever reaches the page must not reach the disk.

    Raises:
        TimmscopeError: it cannot be read, or marks nothing that the model sees.
    """
    if evidence.file:
        name = evidence.label.strip() or None
        return asked.explainer.ground_truth(asked.batch, Path(evidence.file), label=name)
    if evidence.box.strip():
        return asked.explainer.ground_truth(asked.batch, [parse_box(evidence.box)])
    return None


def canvas(service: Service, question: Question) -> NDArray[np.uint8]:
    """(H, W, 3) the picture to draw on, turned as the model sees it.

    Raises:
        TimmscopeError: there is no picture, or it cannot be read.
    """
    picture = ask(service, question).batch.pictures[0].image
    return np.asarray(picture.convert("RGB"))


def drawn(service: Service, question: Question, drawing: str | None) -> str:
    """A mask file from what was painted over the picture.

    Args:
        service: answers.
        question: what the page asks.
        drawing: path of the painted layer, a picture that is clear where nothing is painted.

    Raises:
        TimmscopeError: nothing is painted, or the file is no such picture.
    """
    size = ask(service, question).batch.pictures[0].image.size
    if drawing is not None:
        open_picture(drawing)  # refuses what is no picture, or too large a one
        with PIL.Image.open(drawing) as layer:
            if "A" in layer.getbands():
                painted = layer.getchannel("A").point(lambda opacity: 255 * (opacity >= DRAWN))
                if painted.getbbox() is not None:
                    path = service.folder() / "drawing.png"
                    painted.resize(size, PIL.Image.Resampling.NEAREST).save(path)
                    return str(path)
    raise TimmscopeError("nothing is drawn yet; paint over the evidence, then use the drawing")

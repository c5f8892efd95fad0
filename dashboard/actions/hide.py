"""What the model says while a part of the picture is hidden."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.inputs.ground_truth import on_input
from core.perturb.masks import MaskBaseline
from core.types import Prediction
from dashboard.actions.predict import ClassRow, likely_classes
from dashboard.actions.question import Question, resolve
from dashboard.state import Service

LARGEST = 512
"""The most cells of a mask on a side."""


@dataclass(frozen=True, slots=True)
class Mask:
    """A part of a picture, on a small grid over the whole of it.

    Attributes:
        width: cells in a row.
        height: cells in a column.
        bits: eight cells a byte, row after row, 1 in the part; as base64.
    """

    width: int
    height: int
    bits: str

    @classmethod
    def read(cls, sent: object) -> Mask:
        """A mask as a browser sends it.

        Raises:
            TimmscopeError: it is none, or too large.
        """
        if not isinstance(sent, Mapping):
            raise TimmscopeError("the part to hide is missing; mark one on the picture")
        width, height, bits = (sent.get(name) for name in ("width", "height", "bits"))
        sizes = [n for n in (width, height) if isinstance(n, int) and 0 < n <= LARGEST]
        if len(sizes) < 2 or not isinstance(bits, str):
            raise TimmscopeError(f"a part is marked on at most {LARGEST} x {LARGEST} cells")
        if len(bits) > LARGEST * LARGEST:
            raise TimmscopeError(f"{len(bits)} characters are more than {width} x {height} cells")
        return cls(sizes[0], sizes[1], bits)

    def cells(self) -> NDArray[np.bool_]:
        """(height, width) True in the part.

        Raises:
            TimmscopeError: there are more or fewer cells than stated.
        """
        try:
            sent = np.frombuffer(base64.b64decode(self.bits, validate=True), np.uint8)
        except (binascii.Error, ValueError):
            raise TimmscopeError("the part to hide is no base64 text") from None
        count = self.width * self.height
        if len(sent) != -(-count // 8):
            raise TimmscopeError(
                f"{len(sent)} bytes do not hold {self.width} x {self.height} cells"
            )
        return np.unpackbits(sent)[:count].reshape(self.height, self.width).astype(bool)


@dataclass(frozen=True, slots=True)
class HideRequest:
    """A part of the picture to hide.

    Attributes:
        question: picture, model and class.
        mask: the part, see `Mask`, as the browser sends it.
        keep_only: whether everything else is hidden instead.
        baseline: what replaces hidden pixels.
    """

    question: Question
    mask: object
    keep_only: bool = False
    baseline: str = "blur"


@dataclass(frozen=True)
class HideResult:
    """What the model says while the part is hidden.

    Attributes:
        words: the effect on the class explained, in a sentence; or why it cannot be told.
        after: by class number, how likely each of the classes shown is then; empty if that is
            unknown.
    """

    words: str
    after: Mapping[str, ClassRow] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All values, ready for JSON."""
        return asdict(self)


def hide(
    service: Service, request: HideRequest, on_progress: OnProgress | None = None
) -> HideResult:
    """What the model says while a part of the picture is hidden; one pass.

    Raises:
        TimmscopeError: the part cannot be read, or the model sees nothing of it.
    """
    if request.baseline not in get_args(MaskBaseline):
        choices = ", ".join(get_args(MaskBaseline))
        raise TimmscopeError(f"cannot fill with {request.baseline!r}; choose from {choices}")
    cells = Mask.read(request.mask).cells()
    resolved = resolve(service, request.question, on_progress)
    geometry = resolved.batch.geometries[0]
    height, width = geometry.picture
    whole = Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)
    try:
        region = on_input(np.asarray(whole, dtype=bool), geometry)[None]
    except TimmscopeError:
        raise TimmscopeError(
            "The model does not see that part; mark one inside the bright area"
        ) from None
    with service.slow.held():
        found = resolved.explainer.hide(
            resolved.batch,
            region,
            keep_only=bool(request.keep_only),
            baseline=cast(MaskBaseline, request.baseline),
            target=resolved.target,
        )
    before, after = (
        found.score_text(float(score[0])) for score in (found.score_before, found.score_after)
    )
    seen = "" if geometry.whole else " of what the model sees"
    words = (
        f"With {float(found.share[0]):.0%}{seen} hidden, {found.explained[0]} goes from {before} "
        f"to {after}"
    )
    top = likely_classes(found.after).rows
    if top and found.after.kind == "class":
        words += f"; the model now says {top[0].label}, {top[0].text}"
    return HideResult(f"{words}.", _shown_before(found.before, found.after))


def _shown_before(before: Prediction, after: Prediction) -> dict[str, ClassRow]:
    """The classes that were likely before, with how likely they are now."""
    rows = likely_classes(before).rows
    now = after.values[0]
    longest = 1.0 if after.bounded else max([float(now[row.index]) for row in rows] + [0.0]) or 1.0
    return {
        str(row.index): ClassRow(
            row.index,
            row.label,
            after.text(float(now[row.index])),
            None if row.share is None else max(float(now[row.index]), 0.0) / longest,
        )
        for row in rows
    }

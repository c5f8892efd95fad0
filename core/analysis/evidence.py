"""A map in one sentence: how much of the picture holds half of it, where, and what hiding it does.

Every clause is a figure measured on this map. What is shown in that part is not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.analysis.hiding import DIFFERENCE, Hiding
from core.result import Result

HALF = 0.5
"""The share of a map's positive values that the part described holds."""
ONE_SIDED = 2 / 3
"""A part lies on one side if at least this share of its values does."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EvidenceSummary(Result):
    """Where half of one map's evidence lies, and what the model says without it.

    Attributes:
        area: the smallest share of the model's input, from 0 to 1, that holds half of the map's
            positive values; NaN if it has none.
        where: on which side of the middle that part lies, such as "left of the middle"; empty if
            on none.
        hiding: what the model says while that part is hidden.
        words: all of it in a sentence or two.
    """

    area: float
    where: str
    hiding: Hiding
    words: str


def half_of(values: Tensor) -> Tensor:
    """(B, H, W) True on the fewest pixels that hold half of each map's positive values.

    Args:
        values: (B, H, W) maps.

    >>> half_of(torch.tensor([[[4.0, 1.0], [2.0, -9.0]]])).tolist()
    [[[True, False], [False, False]]]
    """
    positive = values.relu().flatten(1).double()
    sizes, order = positive.sort(dim=1, descending=True, stable=True)
    before = sizes.cumsum(1) - sizes
    needed = (before < HALF * sizes.sum(1, keepdim=True)) & (sizes > 0)
    return torch.zeros_like(needed).scatter(1, order, needed).view(values.shape)


def where(values: Tensor) -> str:
    """On which side of the middle a map (H, W) without negative values lies; empty if on none.

    >>> left = torch.zeros(4, 4); left[:, 0] = 1
    >>> where(left), where(left.T), where(torch.ones(4, 4))
    ('left of the middle', 'above the middle', '')
    """
    height, width = values.shape
    total = float(values.sum()) or 1.0
    halves = (values.sum(1), "above", "below"), (values.sum(0), "left of", "right of")
    shares = [(_first_half(along) / total, low, high) for along, low, high in halves]
    sides = [
        low if share >= ONE_SIDED else high
        for share, low, high in shares
        if not 1 - ONE_SIDED < share < ONE_SIDED
    ]
    if sides:
        return f"{' and '.join(sides)} the middle"
    inner = values[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return "around the middle" if float(inner.sum()) >= ONE_SIDED * total else ""


def _first_half(along: Tensor) -> float:
    """The sum over the first half of (n,) values; of an odd number, with half of the middle one."""
    half, odd = divmod(len(along), 2)
    return float(along[:half].sum() + (along[half] / 2 if odd else 0))


def summarise(
    values: Tensor,
    hiding: Hiding,
    *,
    image: int = 0,
    whole: bool = True,
    noun: str = "evidence",
) -> EvidenceSummary:
    """The summary of one picture's map.

    Args:
        values: (H, W) the map in the pixels of the model's input.
        hiding: what the model says while `half_of` the maps is hidden.
        image: which of the pictures of `hiding` it is.
        whole: whether the model sees the whole picture.
        noun: what the map's values are called.
    """
    hidden = hiding.hidden[image]
    says = _says(hiding, image)
    if not hidden.any():
        words = f"{says} Nothing in this map speaks for it."
        return EvidenceSummary(float("nan"), "", hiding, words)
    # Of equal values it is arbitrary which are hidden: all of them say where the part lies.
    least = values[hidden].min()
    area, side = float(hidden.float().mean()), where(values.where(values >= least, 0))
    seen = "the picture" if whole else "what the model sees"
    found = f"Half of the {noun} lies in {_percent(area)} of {seen}{side and f', {side}'}"
    return EvidenceSummary(area, side, hiding, f"{says} {found}; {_effect(hiding, image)}.")


def _says(hiding: Hiding, image: int) -> str:
    """The prediction, and what is explained where that is something else."""
    prediction = hiding.before
    ((_, label, value),) = prediction.top(1, image)
    text = prediction.text(value)
    if prediction.kind == "output":
        return f"The model says {label}: {text}."
    verb = "'s strongest output is" if prediction.kind == "feature" else " says"
    explained = hiding.explained[image]
    if explained == label:
        return f"The model{verb} {label}, {text}."
    score = hiding.score_text(float(hiding.score_before[image]))
    if hiding.unit == DIFFERENCE:
        score = f"a difference of {score}"
    return f"The model{verb} {label}, {text}; this map is about {explained}, {score}."


def _effect(hiding: Hiding, image: int) -> str:
    """What hiding the part does to the score."""
    scores = float(hiding.score_before[image]), float(hiding.score_after[image])
    before, after = map(hiding.score_text, scores)
    if before == after:
        return f"hiding it leaves {hiding.explained[image]} at {after}"
    verb = "drops" if scores[1] < scores[0] else "raises"
    return f"hiding it {verb} {hiding.explained[image]} to {after}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"

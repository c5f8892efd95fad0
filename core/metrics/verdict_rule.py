"""VerdictRule: how a metric's score counts in a verdict."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Tone = Literal["good", "doubtful", "bad"]
"""Whether a score supports trust in a map."""
TONES: tuple[Tone, ...] = ("good", "doubtful", "bad")
"""From best to worst."""


class Assessment(NamedTuple):
    """What one score means.

    Attributes:
        tone: whether it supports trust in the map.
        words: what it means, a sentence about the map.
    """

    tone: Tone
    words: str


Assess = Callable[[float, Mapping[str, float]], Assessment]
"""From a map's score, and those of the controls by method key, to what the score means."""


@dataclass(frozen=True, slots=True)
class VerdictRule:
    """How a metric's score counts in a verdict.

    Attributes:
        priority: the place among the findings; the smallest comes first.
        assess: what a score means, given the scores of the controls (empty unless
            `uses_controls`).
        uses_controls: whether the controls are to be measured too.
        sanity_check: whether the metric tests the method rather than the map. It is then measured
            once per method and model, on the sample pictures.
        if_bad: the words of the whole verdict where this metric's tone is "bad", which makes the
            verdict "bad" too; empty if a bad tone only makes the verdict "doubtful".
    """

    priority: int
    assess: Assess
    uses_controls: bool = False
    sanity_check: bool = False
    if_bad: str = ""


def assess_by_limits(
    good: float,
    doubtful: float,
    words: tuple[str, str, str],
    *,
    limits_included: bool = False,
) -> Callable[[float, Mapping[str, float]], Assessment]:
    """An `Assess` for scores of which the smaller is the better, whatever the controls score.

    Args:
        good: scores below this are good.
        doubtful: other scores below this are doubtful, and the rest are bad.
        words: what a good, a doubtful and a bad score mean.
        limits_included: whether a score equal to a limit counts as below it.

    >>> assess_by_limits(0.5, 1.0, ("Stable.", "Unsteady.", "Unstable."))(0.7, {})
    Assessment(tone='doubtful', words='Unsteady.')
    """

    def assess(value: float, controls: Mapping[str, float]) -> Assessment:
        below = operator.le if limits_included else operator.lt
        rank = 0 if below(value, good) else 1 if below(value, doubtful) else 2
        return Assessment(TONES[rank], words[rank])

    return assess

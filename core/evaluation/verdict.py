"""Verdict: what a map's scores, beside those of the controls, say of trusting it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core.types import Score

Tone = Literal["good", "doubtful", "bad"]
TONES: tuple[Tone, ...] = ("good", "doubtful", "bad")

SANITY = ("class_sensitivity", "randomisation")
"""Metrics that say of a method, on a model, whether it depends on the class and the weights."""
QUESTIONS = ("srg", "max_sensitivity", "completeness_error", *SANITY)
"""Metrics that a verdict is drawn from."""
AGAIN = {"max_sensitivity": 10, "class_sensitivity": 6, "randomisation": 21}
"""How often a metric, with default parameters, asks the method again; those of sanity on three
sample pictures."""
MAX_ROWS = 4000
"""Rows that a metric may take within a verdict."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one metric says of a map.

    Attributes:
        metric: the metric's key.
        value: the score.
        tone: how it speaks for the map.
        words: what it means, a sentence.
        controls: what the controls score, by method key.
    """

    metric: str
    value: float
    tone: Tone
    words: str
    controls: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a map deserves trust.

    Attributes:
        tone: the worst of the findings', where that is "bad" in the metrics that count most.
        words: what to do, a sentence.
        findings: what it is drawn from.
        unanswered: by metric key, why one says nothing here.
    """

    tone: Tone
    words: str
    findings: Sequence[Finding]
    unanswered: Mapping[str, str]


def verdict(
    scores: Mapping[str, Score],
    controls: Mapping[str, Mapping[str, Score]],
    unanswered: Mapping[str, str],
    image: int = 0,
) -> Verdict:
    """Judge one image's map.

    Args:
        scores: by metric key, of the map.
        controls: by metric key and control.
        unanswered: by metric key, the reason where there is no score.
        image: which of the batch.
    """
    findings = []
    for key, score in scores.items():
        value = float(score.value[image])
        beside = {name: float(c.value[image]) for name, c in controls.get(key, {}).items()}
        findings.append(finding(key, value, beside))
    return Verdict(*_summed_up(findings), findings, unanswered)


def finding(metric: str, value: float, controls: Mapping[str, float]) -> Finding:
    """What one score, beside those of the controls, says of a map."""
    tone, words = _RULES[metric](value, controls)
    return Finding(metric, value, tone, words, controls)


def _summed_up(findings: Sequence[Finding]) -> tuple[Tone, str]:
    worst = max((TONES.index(f.tone) for f in findings), default=1)
    tones = {f.metric: f.tone for f in findings}
    if tones.get("srg") == "bad":
        return "bad", "Do not rely on this map: maps that know nothing of the model do as well."
    if tones.get("randomisation") == "bad":
        return "bad", "Do not rely on this map: it hardly depends on what the model has learnt."
    if worst == 0:
        return "good", "Every test speaks for this map."
    weak = [f for f in findings if f.tone == TONES[worst]]
    return "doubtful", f"Read this map with care: {'; '.join(_inside(f.words) for f in weak)}."


def _inside(words: str) -> str:
    """A sentence as part of another."""
    return words[:1].lower() + words[1:].removesuffix(".")


def _faithful(value: float, controls: Mapping[str, float]) -> tuple[Tone, str]:
    if not controls:
        return "doubtful", "There is no control to hold its order of pixels against."
    best = max(controls, key=lambda name: controls[name])
    if value <= controls.get("random", 0.0) or value <= 0:
        return "bad", "Its order of pixels matters to the model no more than a random one."
    if value <= controls[best]:
        return "doubtful", f"The control {best} orders pixels at least as well."
    return "good", "It orders pixels better than every control."


def _stable(value: float, controls: Mapping[str, float]) -> tuple[Tone, str]:
    if value < 0.5:
        return "good", "It hardly changes when the picture hardly does."
    if value < 1:
        return "doubtful", "Small changes of the picture change much of it."
    return "bad", "Small changes of the picture give another map altogether."


def _complete(value: float, controls: Mapping[str, float]) -> tuple[Tone, str]:
    if value < 0.05:
        return "good", "Its amounts add up to the score's rise."
    if value < 0.2:
        return "doubtful", "Its amounts add up only roughly; take more steps."
    return "bad", "Its amounts do not add up; take more steps, or read it as a ranking only."


def _asks_class(value: float, controls: Mapping[str, float]) -> tuple[Tone, str]:
    if value > 0.999:
        return "bad", "The map for the next likeliest class is the same one."
    if value > 0.9:
        return "doubtful", "The map for the next likeliest class is nearly the same."
    return "good", "Another class gets another map."


def _learnt(value: float, controls: Mapping[str, float]) -> tuple[Tone, str]:
    if value < 0.5:
        return "good", "It changes when what the model has learnt is shuffled."
    if value < 0.8:
        return "doubtful", "Much of it stays when what the model has learnt is shuffled."
    return "bad", "It stays the same when what the model has learnt is shuffled."


_RULES: Mapping[str, Callable[[float, Mapping[str, float]], tuple[Tone, str]]] = {
    "srg": _faithful,
    "max_sensitivity": _stable,
    "completeness_error": _complete,
    "class_sensitivity": _asks_class,
    "randomisation": _learnt,
}

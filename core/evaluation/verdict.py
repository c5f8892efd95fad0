"""Verdict: whether a map deserves trust, from the scores of several metrics.

What a score means, and the sentence for it, is the `VerdictRule` of each metric in `core.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.metrics.base import METRICS
from core.metrics.localisation_grid import OTHERS
from core.metrics.verdict_rule import TONES, Tone, VerdictRule
from core.result import Result
from core.types import Score

MAX_ROWS = 4000
"""The most rows for one image that a metric of a verdict may take to run the method again."""
SANITY_PICTURES = OTHERS
"""Number of sample pictures that sanity checks are measured on."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Finding(Result):
    """What one metric contributes to a verdict.

    Attributes:
        metric: the metric's key.
        value: the map's score.
        tone: whether the score supports trust in the map.
        words: what the score means, a sentence about the map.
        controls: the scores of the controls, by method key; empty if they play no part.
    """

    metric: str
    value: float
    tone: Tone
    words: str
    controls: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Verdict(Result):
    """Whether a map deserves trust.

    Attributes:
        tone: "good" if all findings are good and every decisive metric that was measured says
            something, "bad" if a decisive metric is bad, else "doubtful".
        words: what to do, a sentence.
        findings: what the metrics contribute, in the order of their priority.
        unanswered: for each metric without a score, or whose score says nothing, the reason, by
            metric key.
    """

    tone: Tone
    words: str
    findings: Sequence[Finding]
    unanswered: Mapping[str, str]


def verdict_metrics() -> tuple[str, ...]:
    """The keys of the metrics that count in a verdict, in the order of their priority."""
    rules = {key: cls.verdict_rule for key, cls in METRICS.items()}
    used = {key: rule.priority for key, rule in rules.items() if rule is not None}
    return tuple(sorted(used, key=used.__getitem__))


def sanity_metrics() -> tuple[str, ...]:
    """The keys of the metrics that test a method on a model, in the order of their priority."""
    return tuple(key for key in verdict_metrics() if rule_of(key).sanity_check)


def rule_of(metric: str) -> VerdictRule:
    """How a metric's score counts in a verdict.

    Raises:
        ValueError: the metric does not count in verdicts.
    """
    rule = METRICS[metric].verdict_rule
    if rule is None:
        raise ValueError(f"{metric} does not count in verdicts")
    return rule


def explanations_needed(metric: str) -> int:
    """How many maps the method must draw for a metric with default parameters, in a verdict."""
    calls = METRICS[metric]().method_calls()
    return SANITY_PICTURES * (1 + calls) if rule_of(metric).sanity_check else calls


def verdict(
    scores: Mapping[str, Score],
    controls: Mapping[str, Mapping[str, Score]],
    unanswered: Mapping[str, str],
    image: int = 0,
) -> Verdict:
    """The verdict on one image's map.

    Args:
        scores: the map's scores, by metric key.
        controls: the scores of the controls, by metric key and method key.
        unanswered: for each metric without a score, the reason, by metric key.
        image: which image of the batch.
    """
    findings, untold = [], {}
    for key, score in scores.items():
        beside = controls.get(key, {})
        if reason := why_no_finding(score, beside, image):
            untold[key] = f"cannot tell: {reason}"
        else:
            findings.append(finding_of(key, score, beside, image))
    overall = _overall(findings, untold, len(unanswered) + len(untold))
    return Verdict(*overall, findings, {**unanswered, **untold})


def why_no_finding(score: Score, controls: Mapping[str, Score], image: int = 0) -> str:
    """Why one map's score contributes nothing to a verdict; an empty text if it does contribute.

    Args:
        score: the map's score.
        controls: the scores of the controls, by method key; may be empty.
        image: which image of the batch.
    """
    if reason := score.reason(image):
        return reason
    sizes = [abs(float(one.value[image])) for one in (score, *controls.values())]
    if score.noise is not None and max(sizes) <= score.noise_of(image):
        return "neither its score nor that of any control is larger than rounding errors"
    return ""


def finding_of(metric: str, score: Score, controls: Mapping[str, Score], image: int = 0) -> Finding:
    """What one map's score contributes to a verdict; see `finding`."""
    noise = score.noise_of(image)
    beside = {name: float(one.value[image]) for name, one in controls.items()}
    found = finding(metric, float(score.value[image]), beside, noise)
    words = found.words
    if found.tone != "good" and score.advice and score.advice[image]:
        words = f"{words.removesuffix('.')}; {score.advice[image]}."
    if score.notes and score.notes[image]:
        words = f"{words} ({score.notes[image]}.)"
    return replace(found, words=words)


def finding(
    metric: str, value: float, controls: Mapping[str, float], noise: float = 0.0
) -> Finding:
    """What one score contributes to a verdict.

    Args:
        metric: the metric's key.
        value: the map's score.
        controls: the scores of the controls, by method key; may be empty.
        noise: a difference from a control, or from 0, that counts as none; see `Score.noise`.

    Raises:
        ValueError: the metric does not count in verdicts.
    """
    clear = 0.0 if abs(value) <= noise else value
    level = {name: clear if abs(c - value) <= noise else c for name, c in controls.items()}
    assessment = rule_of(metric).assess(clear, level)
    return Finding(metric, value, assessment.tone, assessment.words, controls)


def _overall(
    findings: Sequence[Finding], untold: Mapping[str, str], missing: int
) -> tuple[Tone, str]:
    """The tone of the whole verdict and its words.

    A bad score of a metric whose rule has `if_bad` makes the whole verdict bad, and one that says
    nothing, for the reason in `untold`, leaves it doubtful. `missing` tests gave no finding.
    """
    by_priority = sorted(findings, key=lambda one: rule_of(one.metric).priority)
    for one in by_priority:
        if one.tone == "bad" and rule_of(one.metric).if_bad:
            return "bad", rule_of(one.metric).if_bad
    decisive = [key for key in untold if rule_of(key).if_bad]
    if decisive:
        reason = untold[min(decisive, key=lambda key: rule_of(key).priority)]
        return "doubtful", f"{reason[:1].upper()}{reason[1:]}."
    if not findings:
        return "doubtful", "No test applies to this map."
    worst = max(TONES.index(one.tone) for one in findings)
    if TONES[worst] == "good":
        made = f"all {len(findings)} tests that could be made" if missing else "every test"
        return "good", f"This map passed {made}."
    weak = [one.words for one in findings if one.tone == TONES[worst]]
    return "doubtful", f"Read this map with care: {'; '.join(map(_clause, weak))}."


def _clause(words: str) -> str:
    """A sentence as part of a longer one."""
    return words[:1].lower() + words[1:].removesuffix(".")

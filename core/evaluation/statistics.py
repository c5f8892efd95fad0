"""What rows of many pictures say together: means with intervals, tests between methods, advice."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.evaluation.rows import Row
from core.methods.base import METHODS
from core.metrics.base import METRICS

Values = NDArray[np.float64]

RESAMPLES = 2000
"""Draws behind every interval and every p-value."""


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """By metric: every method's mean with its interval, every pair's difference, and advice.

    Intervals are percentiles over resampled pictures, 95%. Pairs are compared on the pictures that
    both have; p-values are those of a sign-flip test, adjusted by Holm's method within a metric.
    """
    table: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    passes: dict[str, list[int]] = defaultdict(list)
    errors: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row.value is None:
            errors[row.metric][row.method] += bool(row.error)
        else:
            table[row.metric][row.method][row.picture] = row.value
            passes[row.method].append(row.forward + 2 * row.backward)
    found = {}
    for metric, by_method in table.items():
        means = {key: _mean(np.array(list(of.values()))) for key, of in by_method.items()}
        pairs = _pairs(by_method)
        ranked = sorted(means, key=lambda key: means[key]["mean"])
        if METRICS[metric].higher_is_better:
            ranked.reverse()
        found[metric] = {
            "higher_is_better": METRICS[metric].higher_is_better,
            "ranking": ranked,
            "methods": means,
            "pairs": pairs,
            "errors": dict(errors[metric]),
            "advice": advice(metric, ranked, means, pairs, passes),
        }
    for metric in errors.keys() - found.keys():
        found[metric] = {"errors": dict(errors[metric])}
    return found


def _mean(values: Values) -> dict[str, Any]:
    low, high = interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high, "pictures": len(values)}


def interval(values: Values) -> tuple[float, float]:
    """Where the mean of values like these (n,) lies, 95%: percentiles over resamples."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def sign_flip(differences: Values) -> float:
    """The two-sided p-value of a mean difference (n,) if signs were a matter of chance.

    All 2^n signs are tried where these are few enough, else as many at random.

    >>> sign_flip(np.array([1.0, 2.0, 3.0]))
    0.25
    """
    count = len(differences)
    if 2**count <= RESAMPLES:
        signs = np.array(list(itertools.product((1, -1), repeat=count)))
        extra = 0
    else:
        signs = np.random.default_rng(0).choice((1, -1), size=(RESAMPLES, count))
        extra = 1  # the signs that were found are one of the possible ones
    means = np.abs((signs * differences).mean(1))
    reached = means >= abs(differences.mean()) * (1 - 1e-12)
    return float((reached.sum() + extra) / (len(signs) + extra))


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, most = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        most = max(most, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = most
    return adjusted


def _pairs(by_method: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    pairs: list[dict[str, Any]] = []
    for a, b in itertools.combinations(by_method, 2):
        both = [p for p in by_method[a] if p in by_method[b]]
        if not both:
            continue
        differences = np.array([by_method[a][p] - by_method[b][p] for p in both])
        low, high = interval(differences)
        pairs.append(
            {
                "methods": [a, b],
                "difference": float(differences.mean()),
                "low": low,
                "high": high,
                "p": sign_flip(differences),
                "pictures": len(both),
            }
        )
    for pair, p in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p"] = p
    return pairs


def advice(
    metric: str,
    ranked: Sequence[str],
    means: Mapping[str, Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    passes: Mapping[str, Sequence[int]],
) -> str:
    """Which method to take by this metric, and why, in a sentence."""
    label = METRICS[metric].label
    best = ranked[0]
    told = f"by {label.lower()} {best} is best ({means[best]['mean']:.3g})"
    if METHODS[best].family == "control":
        return f"{told}, a map that knows nothing: this metric tells no method apart here"
    level = {other for other in ranked[1:] if not _apart(pairs, best, other)}
    if controls := sorted(key for key in level if METHODS[key].family == "control"):
        return f"{told}, but cannot be told from the control {controls[0]}; take more pictures"
    cheap = sorted(level, key=lambda key: np.mean(passes[key]))
    if cheap and np.mean(passes[cheap[0]]) < np.mean(passes[best]):
        share = np.mean(passes[cheap[0]]) / np.mean(passes[best])
        return f"{told}; {cheap[0]} cannot be told from it and takes {share:.0%} of its passes"
    if level:
        return f"{told}; {', '.join(sorted(level))} cannot be told from it"
    return f"{told}, apart from all others"


def _apart(pairs: Sequence[Mapping[str, Any]], a: str, b: str) -> bool:
    """Whether the interval of two methods' difference leaves zero out."""
    pair = next((p for p in pairs if set(p["methods"]) == {a, b}), None)
    return pair is not None and (pair["low"] > 0 or pair["high"] < 0)

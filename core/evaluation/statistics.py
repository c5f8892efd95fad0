"""Statistics over many pictures: means with intervals, tests between methods, advice."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.evaluation.cost_wording import cost_share
from core.evaluation.rows import Row
from core.methods.base import METHODS
from core.metrics.base import METRICS
from core.registry import key_of

# scipy.stats and statsmodels are imported where they are used: it takes seconds, and few ask.

Values = NDArray[np.float64]

ROUNDING = 1e-6
"""Scores that differ by less than this share of the largest are equal: they are float32 numbers,
computed in many steps."""
RESAMPLES = 2000
"""Draws for each interval, and the most for each p-value."""


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """By metric: the mean of every method, the difference of every pair, a ranking and advice.

    Intervals are 95% percentile bootstrap intervals of the mean over pictures. A pair is compared
    on the pictures that both methods have. P-values are those of a two-sided sign-flip test of the
    differences, adjusted for all pairs of a metric by Holm's method. A difference no larger than
    `noise`, the rounding error of the scores, counts as none.

    Args:
        rows: scores; a row with an error counts as an error of its method, and one without value or
            error (a score that is not finite) is left out.

    Returns:
        For each metric its name with `higher_is_better`, `ranking` (methods, the best first),
        `methods` (`mean`, `low`, `high`, `pictures`), `pairs` (`methods`, `difference`, `low`,
        `high`, `p`, `noise`, `pictures`), `errors` (number by method) and `advice`; only `errors`
        if it has no score at all.
    """
    table: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    costs: dict[str, list[int]] = defaultdict(list)
    errors: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row.value is None:
            errors[row.metric][row.method] += bool(row.error)
        else:
            table[row.metric][row.method][row.picture] = row.value
            costs[row.method].append(row.forward + 2 * row.backward)
    found = {
        metric: {**_of_metric(metric, by_method, costs), "errors": dict(errors[metric])}
        for metric, by_method in table.items()
    }
    for metric in errors.keys() - found.keys():
        found[metric] = {"errors": dict(errors[metric])}
    return found


def _of_metric(
    metric: str, by_method: Mapping[str, Mapping[str, float]], costs: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """The summary of one metric, from scores by method and picture."""
    means = {key: _mean(np.array(list(of.values()))) for key, of in by_method.items()}
    pairs = _pairs(by_method)
    higher = METRICS[key_of(metric)].higher_is_better
    ranked = sorted(means, key=lambda key: means[key]["mean"], reverse=higher)
    return {
        "higher_is_better": higher,
        "ranking": ranked,
        "methods": means,
        "pairs": pairs,
        "advice": advice(metric, ranked, means, pairs, costs),
    }


def _mean(values: Values) -> dict[str, Any]:
    low, high = interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high, "pictures": len(values)}


def interval(values: Values) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean of values (n,), from a fixed seed.

    Of a single value the interval is that value.
    """
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    if len(values) == 1:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip(differences: Values) -> float:
    """The two-sided p-value of a mean difference (n,), if each sign were random.

    Exact where all 2^n signs can be tried, else from `RESAMPLES` random ones; never 0.

    >>> sign_flip(np.array([1.0, 2.0, 3.0]))
    0.25
    """
    from scipy.stats import permutation_test

    if len(differences) == 1:
        return 1.0

    def size(values: Values, axis: int) -> Values:
        sizes: Values = np.abs(values.mean(axis=axis))
        return sizes

    found = permutation_test(
        (differences,),
        size,
        permutation_type="samples",
        alternative="greater",  # of sizes, so that both signs count
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's method (1979) for the number of tests.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests

    return multipletests(values, method="holm")[1].tolist() if len(values) else []


def _pairs(by_method: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The difference of every pair of methods, on the pictures that both have."""
    pairs: list[dict[str, Any]] = []
    for a, b in itertools.combinations(by_method, 2):
        both = [p for p in by_method[a] if p in by_method[b]]
        if not both:
            continue
        differences = np.array([by_method[a][p] - by_method[b][p] for p in both])
        low, high = interval(differences)
        noise = ROUNDING * max(abs(by_method[m][p]) for m in (a, b) for p in both)
        pairs.append(
            {
                "methods": [a, b],
                "difference": float(differences.mean()),
                "low": low,
                "high": high,
                "p": sign_flip(differences * (np.abs(differences) > noise)),
                "noise": noise,
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
    costs: Mapping[str, Sequence[int]],
) -> str:
    """Which method to use by one metric, and why, in a sentence.

    Args:
        metric: its name.
        ranked: the methods, the best first.
        means: by method, as in `summary`.
        pairs: as in `summary`.
        costs: by method the passes for each map and score, a backward pass counted as two.
    """
    best = ranked[0]
    label = METRICS[key_of(metric)].label
    words = f"{best} scores best by {label} (mean {means[best]['mean']:.3g})"
    if _is_control(best):
        return f"{words}, but it ignores the model: no method is better than a control here"
    level = [other for other in ranked[1:] if not _differ(pairs, best, other)]
    if controls := sorted(filter(_is_control, level)):
        return f"{words}, but not clearly better than the control {controls[0]}; use more pictures"
    if not level:
        return f"{words}, clearly better than all others"
    cheapest = min(level, key=lambda name: np.mean(costs[name]))
    if np.mean(costs[cheapest]) < np.mean(costs[best]):
        share = float(np.mean(costs[cheapest]) / np.mean(costs[best]))
        return f"{words}; {cheapest} is not clearly worse, at {cost_share(share)}"
    return f"{words}; no clear difference from {', '.join(sorted(level))}"


def _is_control(name: str) -> bool:
    return METHODS[key_of(name)].is_control


def _differ(pairs: Sequence[Mapping[str, Any]], a: str, b: str) -> bool:
    """Whether the interval of two methods' difference, unadjusted, excludes zero."""
    pair = next((p for p in pairs if set(p["methods"]) == {a, b}), None)
    if pair is None:
        return False
    noise = pair.get("noise", 0.0)
    return bool(pair["low"] > noise or pair["high"] < -noise)

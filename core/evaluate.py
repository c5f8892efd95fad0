"""Many pictures: every method by every metric, a row each, and what the rows say together."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.asking import Look, TargetLike
from core.errors import FAULTS, CancelledError, TimmscopeError
from core.explainer import Comparison, Explainer
from core.export import finite
from core.methods.base import METHODS, Method
from core.metrics.base import METRICS, Given, Metric
from core.targets import Target
from core.types import Attribution

Values = NDArray[np.float64]
Done = tuple[str, str, str]
"""Picture, method and metric of a row."""

RESAMPLES = 2000
"""Draws behind every interval and every p-value."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one metric says of one method on one picture.

    Attributes:
        picture: the file.
        method: the method's key; the controls are among them.
        metric: the metric's key.
        value: the score; None where there is none.
        low: the lower end of its 95% interval, where it has one.
        high: the upper end.
        percentile: where the map stands among random ones, if that was asked and applies.
        target: what was explained.
        forward: rows sent forward for the map and the score.
        backward: rows differentiated.
        seconds: they took.
        error: why there is no score.
    """

    picture: str
    method: str
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    percentile: float | None = None
    target: str = ""
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def key(self) -> Done:
        """What the row is about."""
        return self.picture, self.method, self.metric

    def facts(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


# -- rows -----------------------------------------------------------------------------------------


def evaluate(
    explainer: Explainer,
    pictures: Iterable[Path],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    *,
    target: TargetLike = None,
    layer: str | None = None,
    seed: int = 0,
    truth: Callable[[Path], Any] | None = None,
    label: str | None = None,
    among: int = 0,
    done: Collection[Done] = (),
) -> Iterator[Row]:
    """A row for each picture, method and metric, the controls among the methods, one after another.

    What cannot be read, drawn or measured gives rows that say why.

    Args:
        explainer: asks the model.
        pictures: files.
        methods: their maps are measured.
        metrics: the questions.
        target: what to explain; by default each picture's predicted class.
        layer: where methods look that can look there.
        seed: where random draws start.
        truth: gives a picture's truth, as `Explainer.truth` takes it, or None.
        label: of a truth from a file, only objects of this class.
        among: how many random maps to set each map among; 0 for none.
        done: rows that are there already.
    """
    controls = [METHODS.make(key) for key, cls in METHODS.items() if cls.family == "control"]
    asked = list({method.key: method for method in (*methods, *controls)}.values())
    for path in pictures:
        left = [
            (method, metric)
            for method in asked
            for metric in metrics
            if (str(path), method.key, metric.key) not in done
        ]
        if not left:
            continue
        try:
            look = explainer.look(path)
            chosen = explainer.target(target) or explainer.target(
                explainer.predict(look).top(1)[0][0]
            )
            assert chosen is not None
            place = None if truth is None else truth(path)
            mask = None if place is None else explainer.truth(look, place, label=label)
        except FAULTS as error:
            reason = _said(error)
            yield from (Row(str(path), m.key, k.key, error=reason) for m, k in left)
            continue
        once = list({method.key: method for method, _ in left}.values())
        drawn = explainer.compare(look, once, target=chosen, layer=layer, seed=seed)
        question = {"target": chosen, "truth": mask, "seed": seed}
        yield from _measured(explainer, str(path), look, drawn, left, question, among)


def _measured(
    explainer: Explainer,
    path: str,
    look: Look,
    drawn: Comparison,
    left: Sequence[tuple[Method, Metric]],
    question: Mapping[str, Any],
    among: int,
) -> Iterator[Row]:
    for method, metric in left:
        row: dict[str, Any] = {"picture": path, "method": method.key, "metric": metric.key}
        target: Target = question["target"]
        try:
            if method.key in drawn.errors:
                raise TimmscopeError(drawn.errors[method.key])
            answer: Attribution = drawn.results[method.key]
            score = explainer.measure(look, answer, metric, **question)
            percentile = None
            if among and Given.METHOD not in metric.needs and method.family != "control":
                standing = explainer.standing(look, answer, metric, maps=among, **question)
                percentile = float(standing.percentile[0])
        except CancelledError:
            raise
        except FAULTS as error:
            yield Row(**row, target=target.key, error=_said(error))
            continue
        low, high = (None if e is None else finite(float(e[0])) for e in (score.low, score.high))
        yield Row(
            **row,
            value=finite(float(score.value[0])),
            low=low,
            high=high,
            percentile=percentile,
            target=target.key,
            forward=answer.cost.forward + score.cost.forward,
            backward=answer.cost.backward + score.cost.backward,
            seconds=round(answer.cost.seconds + score.cost.seconds, 4),
        )


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0]


def expanded(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, and of folders the pictures in them, by name.

    Raises:
        TimmscopeError: there is no picture.
    """
    found: list[Path] = []
    for path in paths:
        found += sorted(p for p in path.iterdir() if is_picture(p)) if path.is_dir() else [path]
    if not found:
        raise TimmscopeError("no pictures: name files, or a folder with pictures in it")
    return found


def is_picture(path: Path) -> bool:
    """Whether a file is called like a picture."""
    known = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif"}
    return path.is_file() and path.suffix.lower() in known


def beside(folder: Path) -> Callable[[Path], Path | None]:
    """Gives each picture's truth: the file of its name in a folder."""

    def find(picture: Path) -> Path | None:
        names = (folder / f"{picture.stem}{suffix}" for suffix in (".png", ".xml", ".json"))
        return next((name for name in names if name.is_file()), None)

    return find


def lacking(metrics: Iterable[Metric], truth: bool) -> list[str]:
    """The metrics that need a truth where there is none."""
    return [m.key for m in metrics if Given.TRUTH in m.needs and not truth]


# -- what they say together -----------------------------------------------------------------------


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

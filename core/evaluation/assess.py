"""Evaluates attributions beside controls: percentile ranks, sanity checks, verdicts, advice.

Every function takes an explainer, which answers single questions, and a `Query`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from core.errors import NotApplicableError, TimmscopeError
from core.evaluation.recommendation import Candidate, Recommendation, recommend
from core.evaluation.verdict import (
    MAX_ROWS,
    Verdict,
    explanations_needed,
    rule_of,
    sanity_metrics,
    verdict,
    verdict_metrics,
)
from core.inputs.batch import InputBatch, OnProgress, Pictures
from core.inputs.crop import Crops
from core.methods.base import METHODS, Method, control_keys
from core.methods.configuration import Configuration, MethodLike, label_of
from core.metrics.base import METRICS, Metric, MetricInput
from core.metrics.localisation_grid import OTHERS
from core.models.handle import ModelHandle
from core.models.named_layer import LayerLike
from core.runtime.batching import joint_progress
from core.tasks.base import Target, TargetLike
from core.tasks.query import Query
from core.types import Attribution, Comparison, Cost, PercentileRank, Prediction, Score

RECOMMENDATION_BASELINES = ("blur", "mean", "black")
"""What replaces removed pixels when methods are ranked, in turn."""
RECOMMENDATION_STEPS = 14
"""Steps of the curves by which methods are ranked."""
PARTS = 100
"""Parts that progress counts for each of several maps."""


class ExplainerLike(Protocol):
    """What evaluation needs of an explainer; `core.explainer.Explainer` is one."""

    model: ModelHandle

    def prepare(self, pictures: Pictures, *, crop: Crops = None) -> InputBatch:
        """Decode and preprocess one or several pictures."""

    def query(
        self,
        pictures: Pictures | Query,
        *,
        target: TargetLike = None,
        layer: LayerLike | None = None,
        seed: int = 0,
        crop: Crops = None,
        on_progress: OnProgress | None = None,
    ) -> Query:
        """A checked question about pictures."""

    def target(self, target: TargetLike, images: int = 1) -> Target | None:
        """A checked target."""

    def predict(self, pictures: Pictures | Query) -> Prediction:
        """The model's scores of each picture."""

    def ground_truth(self, pictures: Pictures, source: Any, *, label: str | None = None) -> Tensor:
        """Where the evidence is, in the model's input."""

    def explain(
        self, pictures: Pictures | Query, method: MethodLike = "gradcam", **options: Any
    ) -> Attribution:
        """Which pixels made the model predict so."""

    def compare(
        self, pictures: Pictures | Query, methods: Sequence[MethodLike] = ..., **options: Any
    ) -> Comparison:
        """Several methods on one question."""

    def measure(
        self,
        pictures: Pictures | Query,
        values: Attribution | Tensor,
        metric: str | Metric = "deletion",
        **options: Any,
    ) -> Score:
        """Score attributions with one metric."""

    def estimate_rows(self, method: Method, layer: str | None) -> int:
        """The rows that progress counts for one image."""


def control_methods() -> list[Method]:
    """The methods whose maps do not depend on the model, with default parameters."""
    return [METHODS.make(key) for key in control_keys()]


def controls(explainer: ExplainerLike, query: Query, metric: Metric) -> dict[str, Score]:
    """Scores of the maps that do not depend on the model, by method key.

    A score means something only beside these.
    """
    plain = replace(query, layer=None, extra_layers=(), ground_truth=None)
    return {
        method.key: explainer.measure(query, explainer.explain(plain, method), metric)
        for method in control_methods()
    }


def percentile_rank(
    explainer: ExplainerLike,
    query: Query,
    values: Attribution | Tensor,
    metric: Metric,
    maps: int = 100,
) -> PercentileRank:
    """The rank of maps among random ones on the same grid, by one metric.

    Each random map costs as much as measuring one map.

    Args:
        explainer: the explainer that is asked.
        query: the pictures explained; `on_progress` is called with the parts done and expected, a
            hundred for each random map.
        values: the maps: an attribution, or a tensor (B, h, w).
        metric: it must not run the method again.
        maps: how many random maps.

    Raises:
        NotApplicableError: the metric runs the method again, and a random map has none.
        TimmscopeError: `maps` is below 1.
    """
    if MetricInput.METHOD in metric.needs:
        raise NotApplicableError(
            f"{metric.label} runs the method again, and a random map has none; choose another "
            "metric"
        )
    if maps < 1:
        raise TimmscopeError(f"a map cannot be ranked among {maps} random maps; give at least 1")
    silent = query.reporting(None)
    own = explainer.measure(silent, values, metric)
    grid = values.values if isinstance(values, Attribution) else values
    generator = torch.Generator().manual_seed(query.seed % 2**63)
    found = []
    for report in joint_progress(query.on_progress, [PARTS] * maps):
        noise = torch.rand(grid.shape[1:], generator=generator).expand_as(grid)
        found.append(explainer.measure(query.reporting(_in_parts(report)), noise, metric).value)
        report(PARTS, PARTS)
    return PercentileRank.among(own, torch.stack(found), higher_is_better=metric.higher_is_better)


def sanity_checks(
    explainer: ExplainerLike,
    configuration: Configuration,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> dict[str, Score]:
    """Whether a method's maps depend on the model's weights, and on the class explained.

    Measured on the sample pictures that the model is most certain of. The answer is the same for
    every picture, and kept for the method with its parameters, the layer, the model and the seed.

    Args:
        explainer: the explainer that is asked.
        configuration: the method and its layer.
        metrics: keys of the metrics to measure; by default the sanity checks.
        seed: where random draws start.
        on_progress: called with the rows done and expected, of each metric in turn.

    Returns:
        By metric key the score of each sample picture.
    """
    samples = explainer.prepare(explainer.model.samples)
    certain = explainer.predict(samples).certainty.topk(OTHERS).indices
    batch = explainer.prepare(samples.x[certain.to(samples.x.device)])
    said = explainer.predict(batch)
    target = [said.top(1, image)[0][0] for image in range(len(batch.x))]
    query = explainer.query(batch, target=target, seed=seed, on_progress=on_progress)
    attribution = explainer.explain(query, configuration)
    keys = sanity_metrics() if metrics is None else metrics
    return {key: explainer.measure(query, attribution, key) for key in keys}


def verdicts(explainer: ExplainerLike, query: Query, attribution: Attribution) -> list[Verdict]:
    """Whether each picture's map deserves trust, from the metrics that count in verdicts.

    The sanity checks are measured on sample pictures, see `sanity_checks`; all else on the map.

    Args:
        explainer: the explainer that is asked.
        query: the pictures explained and the target.
        attribution: their maps.
    """
    method = METHODS.make(attribution.method, attribution.params)
    scores: dict[str, Score] = {}
    unanswered: dict[str, str] = {}
    rows = explainer.estimate_rows(method, attribution.layer)
    for key in verdict_metrics():
        if (needed := explanations_needed(key)) * rows > MAX_ROWS:
            unanswered[key] = f"it takes {needed} x {rows:,} rows; measure it by itself"
            continue
        try:
            if rule_of(key).sanity_check:
                scores[key] = _mean_check(explainer, query, key, attribution)
            else:
                scores[key] = explainer.measure(query, attribution, key)
        except NotApplicableError as reason:
            unanswered[key] = str(reason)
    beside = {
        key: controls(explainer, query, METRICS.make(key))
        for key in scores
        if rule_of(key).uses_controls
    }
    return [verdict(scores, beside, unanswered, image) for image in range(len(query))]


def _mean_check(
    explainer: ExplainerLike, query: Query, key: str, attribution: Attribution
) -> Score:
    """The mean of one sanity check over the sample pictures, the same for each image."""
    method = METHODS.make(attribution.method, attribution.params)
    configuration = Configuration(method, attribution.layer)
    found = sanity_checks(explainer, configuration, [key], query.seed, query.on_progress)[key]
    return mean_check(found, len(query))


def mean_check(found: Score, images: int = 1) -> Score:
    """The mean of a sanity check over the sample pictures, as the score of each of some images.

    A picture that cannot tell is left out, and the note says so. If none can tell, neither can the
    mean.
    """
    why = [found.reason(picture) for picture in range(len(found.value))]
    told = torch.tensor([not reason for reason in why])
    notes = [note for note in found.notes if note]
    if lost := sum(map(bool, why)):
        left_out = f"{lost} of {len(why)} sample pictures left out: {next(filter(None, why))}"
        notes = [left_out, *notes]
    return replace(
        found,
        value=found.value[told].mean().expand(images),
        curve_x=None,
        curve_y=None,
        noise=None,
        cannot_tell=("" if told.any() else why[0],) * images,
        notes=("; ".join(dict.fromkeys(notes)),) * images,
    )


def recommendation(
    explainer: ExplainerLike, query: Query, attributions: Mapping[str, Attribution]
) -> Recommendation:
    """Which of several methods to use for one picture, and why.

    Methods are ranked by the mean of their symmetric relevance gain over three baselines; see
    `core.evaluation.recommendation`.

    Args:
        explainer: the explainer that is asked.
        query: the picture explained and the target; `on_progress` is called with the parts done and
            expected, a hundred for each map measured.
        attributions: by configuration, all of the same target; controls are no candidates.

    Raises:
        NotApplicableError: there is no method among them, more than one picture, or the score does
            not change when the picture is removed.
    """
    if len(query) != 1:
        raise NotApplicableError(
            f"a recommendation is about one picture, not {len(query)}; evaluate ranks methods "
            "over many"
        )
    controls = {method.key: method for method in control_methods()}
    names = [name for name, one in attributions.items() if one.method not in controls]
    if not names:
        raise NotApplicableError("there is no method to recommend; give at least one")
    maps = {name: attributions[name] for name in names}
    silent = replace(query, layer=None, on_progress=None)
    maps |= {key: explainer.explain(silent, method) for key, method in controls.items()}
    gains, noise = _gains(explainer, query, maps)
    return recommend(
        [Candidate(name, gains[name], _full_cost(explainer, maps[name])) for name in names],
        {key: gains[key] for key in controls},
        {name: label_of(name) for name in maps},
        noise,
    )


def _gains(
    explainer: ExplainerLike, query: Query, maps: Mapping[str, Attribution]
) -> tuple[dict[str, list[float]], float]:
    """The symmetric relevance gain of each map, once for each baseline, and how much is rounding.

    Raises:
        NotApplicableError: removing the picture does not change the score.
    """
    noise, why = 0.0, []
    turns = joint_progress(query.on_progress, [PARTS] * (len(maps) * len(RECOMMENDATION_BASELINES)))
    gains: dict[str, list[float]] = {name: [] for name in maps}
    for baseline in RECOMMENDATION_BASELINES:
        metric = METRICS.make("srg", {"steps": RECOMMENDATION_STEPS, "baseline": baseline})
        for name, attribution in maps.items():
            report = next(turns)
            score = explainer.measure(query.reporting(_in_parts(report)), attribution, metric)
            gains[name].append(float(score.value[0]))
            noise = max(noise, score.noise_of())
            why.append(score.reason())
            report(PARTS, PARTS)
    if all(why):
        raise NotApplicableError(f"cannot tell which method to use: {why[0]}")
    return gains, noise


def _full_cost(explainer: ExplainerLike, attribution: Attribution) -> Cost:
    """What a map costs where nothing is cached."""
    method = METHODS.make(attribution.method, attribution.params)
    return method.estimate_cost(explainer.model, attribution.layer)


def _in_parts(report: Callable[[int, int], None]) -> OnProgress:
    """Progress in rows, reported in parts of a whole that never decrease."""
    most = 0

    def progress(done: int, expected: int) -> None:
        nonlocal most
        most = max(most, PARTS * done // max(1, expected))
        report(most, PARTS)

    return progress

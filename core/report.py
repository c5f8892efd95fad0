"""What the command line and the API tell, as JSON.

Functions named `add_...` enter more into the report of one picture: a dictionary with `results` by
configuration, and `errors`. Those named `..._facts` give the JSON of one thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from core.analysis.features import FeatureMaps
from core.analysis.hiding import Hiding
from core.errors import CancelledError, TimmscopeError, WayOut, first_line
from core.evaluation.agreement import Agreement
from core.evaluation.recommendation import Recommendation
from core.evaluation.side_by_side import Side, SideBySide
from core.evaluation.verdict import Verdict
from core.explainer import Explainer
from core.export import context_facts, cost_facts, prediction_facts
from core.methods.base import Method
from core.metrics.base import Metric, MetricInput
from core.models.handle import ModelHandle
from core.tasks.query import Query
from core.types import Comparison, Layer, Score, finite


def add_scores(
    report: dict[str, Any],
    explainer: Explainer,
    query: Query,
    compared: Comparison,
    key: str,
    metric: Metric,
    random_maps: int = 0,
) -> None:
    """Enter the score of each result by `metric`, beside the scores of the controls.

    A metric that does not apply to a method says so under `errors` as "method.metric", one that
    applies to none as "metric"; the maps are kept.
    """
    controls: dict[str, float | None] = {}
    with suppress(TimmscopeError):  # what is wrong is reported with the methods
        found = explainer.controls(query, metric)
        controls = {name: finite(float(score.value[0])) for name, score in found.items()}
    reasons = {}
    for name, attribution in compared.results.items():
        try:
            score = explainer.measure(query, attribution, metric)
        except CancelledError:
            raise
        except TimmscopeError as error:
            reasons[name] = first_line(error)
            continue
        facts = {**score_facts(score, metric), "controls": controls}
        report["results"][name].setdefault("scores", {})[key] = facts
        if random_maps and MetricInput.METHOD not in metric.needs:
            rank = explainer.percentile_rank(query, attribution, metric, maps=random_maps)
            facts["percentile"] = finite(float(rank.percentile[0]))
    if len(reasons) == len(compared.results) and len(set(reasons.values())) == 1:
        reasons = {key: reasons.popitem()[1]}
    else:
        reasons = {f"{name}.{key}": reason for name, reason in reasons.items()}
    report["errors"].update(reasons)


def score_facts(score: Score, metric: Metric) -> dict[str, Any]:
    """The score of one map as JSON."""
    facts: dict[str, Any] = {
        "value": finite(float(score.value[0])),
        "higher_is_better": metric.higher_is_better,
        "params": dict(score.params),
        "cost": cost_facts(score.cost),
    }
    if reason := score.reason():
        facts["cannot_tell"] = reason
    if score.notes and score.notes[0]:
        facts["note"] = score.notes[0]
    if score.advice and score.advice[0]:
        facts["advice"] = score.advice[0]
    if score.low is not None and score.high is not None:
        facts["interval"] = [finite(float(end[0])) for end in (score.low, score.high)]
    return facts


def add_summaries(
    report: dict[str, Any], explainer: Explainer, query: Query, compared: Comparison
) -> None:
    """Enter where half of each map's evidence lies, and what hiding that does."""
    for name, attribution in compared.results.items():
        (found,) = explainer.evidence(query, attribution)
        report["results"][name]["summary"] = {
            "words": found.words,
            "area": finite(found.area),
            "where": found.where,
            "unit": found.hiding.unit,
            "before": finite(float(found.hiding.score_before[0])),
            "after": finite(float(found.hiding.score_after[0])),
        }


def add_verdicts(
    report: dict[str, Any], explainer: Explainer, query: Query, compared: Comparison
) -> None:
    """Enter the verdict on each result; why there is none stands under `errors`."""
    for name, attribution in compared.results.items():
        try:
            (found,) = explainer.verdict(query, attribution)
        except CancelledError:
            raise
        except TimmscopeError as error:
            report["errors"][f"{name}.verdict"] = first_line(error)
        else:
            report["results"][name]["verdict"] = verdict_facts(found)


def add_recommendation(
    report: dict[str, Any], explainer: Explainer, query: Query, compared: Comparison
) -> None:
    """Enter which method to use; why there is none stands under `errors`."""
    try:
        found = explainer.recommend(query, compared.results)
    except CancelledError:
        raise
    except TimmscopeError as error:
        report["errors"]["recommendation"] = first_line(error)
    else:
        report["recommendation"] = recommendation_facts(found)


def recommendation_facts(found: Recommendation) -> dict[str, Any]:
    """A recommendation as JSON."""
    return {
        "method": found.method,
        "firm": found.firm,
        "words": found.words,
        "ranking": [
            {
                "method": one.method,
                "srg": finite(one.gain),
                "range": [finite(min(one.gains)), finite(max(one.gains))],
                "forward": one.cost.forward,
                "backward": one.cost.backward,
            }
            for one in found.ranking
        ],
        "controls": {key: finite(value) for key, value in found.controls.items()},
        "doubtful": dict(found.doubtful),
    }


def agreement_facts(found: Agreement, names: str = "methods") -> dict[str, Any]:
    """How far maps agree as JSON: square tables, rows and columns in the order of their names.

    Args:
        found: the agreement.
        names: what the names are called: whose maps they are.
    """
    tables = {name: getattr(found, name) for name in ("pearson", "spearman", "overlap", "ssim")}
    return {
        names: list(found.methods),
        **{
            name: [[finite(round(v, 4)) for v in row] for row in t.tolist()]
            for name, t in tables.items()
        },
    }


def side_facts(handle: ModelHandle, side: Side) -> dict[str, Any]:
    """What one of several models or pictures gives, but for the map."""
    value = None if side.target_value is None else finite(side.target_value)
    return {**context_facts(handle, side.query, side.prediction), "target_value": value}


def side_by_side_facts(found: SideBySide) -> dict[str, Any]:
    """What several models or pictures have in common: why some failed, how far the others agree.

    There is no agreement where there is nothing to compare.
    """
    facts: dict[str, Any] = {
        "errors": dict(found.errors),
        "ways_out": ways_out_facts(found.ways_out),
    }
    if found.agreement is not None and found.seen_by_all is not None:
        facts["agreement"] = agreement_facts(found.agreement, "sides")
        facts["seen_by_all"] = list(found.seen_by_all)
    return facts


def ways_out_facts(ways_out: Mapping[str, Sequence[WayOut]]) -> dict[str, list[dict[str, Any]]]:
    """By what has no result, the changes that help as JSON, the best first."""
    return {name: [asdict(way) for way in ways] for name, ways in ways_out.items()}


def verdict_facts(found: Verdict) -> dict[str, Any]:
    """A verdict as JSON."""
    findings = {
        finding.metric: {
            "value": finite(finding.value),
            "tone": finding.tone,
            "words": finding.words,
            "controls": {key: finite(value) for key, value in finding.controls.items()},
        }
        for finding in found.findings
    }
    return {
        "tone": found.tone,
        "words": found.words,
        "findings": findings,
        "unanswered": dict(found.unanswered),
    }


def method_facts(method: Method, handle: ModelHandle | None) -> dict[str, Any]:
    """What a method is, as JSON, with the rows that it takes for one picture on a model.

    Args:
        method: the method.
        handle: a model that the method can explain; None for no cost.
    """
    cost = None
    if handle is not None:
        rows = method.estimate_cost(handle, handle.resolve_layer(method.layer_needs(), None))
        cost = {"forward": rows.forward, "backward": rows.backward, "pace": rows.pace}
    return {
        "label": method.label,
        "family": method.family,
        "about": method.about,
        "needs": sorted(method.needs),
        "properties": sorted(method.properties),
        "cost": cost,
        "params": method.schema_of_fields(),
        "paper": method.paper,
    }


def metric_facts(cls: type[Metric]) -> dict[str, Any]:
    """What a metric is, as JSON."""
    return {
        "label": cls.label,
        "category": cls.category,
        "about": cls.about,
        "higher_is_better": cls.higher_is_better,
        "range": [finite(end) for end in cls.range],
        "needs": sorted(cls.needs),
        "caveat": cls.caveat,
        "params": cls.schema_of_fields(),
        "paper": cls.paper,
    }


def hiding_facts(found: Hiding) -> dict[str, Any]:
    """What the model says of one picture before and while a part of it is hidden."""
    return {
        "target": found.explained[0],
        "hidden": finite(float(found.share[0])),
        "baseline": found.baseline,
        "score": {
            "unit": found.unit,
            "before": finite(float(found.score_before[0])),
            "after": finite(float(found.score_after[0])),
        },
        "before": prediction_facts(found.before),
        "after": prediction_facts(found.after),
    }


def layers_facts(handle: ModelHandle) -> dict[str, Any]:
    """Where a model can be looked into, as JSON."""
    return {
        "model": handle.name,
        "default": handle.default_layer,
        "stages": [layer.name for layer in handle.stages()],
        "layers": {name: layer_facts(layer) for name, layer in handle.layers.items()},
        "attention": {
            a.name: {
                "heads": a.heads,
                "tokens": a.tokens,
                "usable": not a.reason,
                "reason": a.reason,
            }
            for a in handle.attention_layers.values()
        },
    }


def layer_facts(layer: Layer) -> dict[str, Any]:
    """One layer as JSON."""
    layout = layer.layout
    facts: dict[str, Any] = {"kind": layer.kind, "stage": layer.stage, "layout": None}
    if layout is not None:
        facts |= {
            "layout": layout.format,
            "grid": list(layout.grid),
            "channels": layout.channels,
            "prefix_tokens": layout.prefix,
        }
    return facts


def features_facts(found: FeatureMaps) -> dict[str, Any]:
    """The channels of a layer that respond most, as JSON without their maps."""
    return {
        "layer": found.layer,
        "grid": list(found.maps.shape[1:]),
        "channels": found.channels.tolist(),
        "statistics": {
            "mean": finite(found.mean),
            "std": finite(found.std),
            "sparsity": found.sparsity,
            "active_channels": found.active,
            "channels": found.total,
        },
    }

"""``explain``: which pixels made it so."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.cli.shared import made, parse_settings, prepare, to_json, writing
from core.errors import FAULTS, TimmscopeError
from core.evaluation.agreement import Agreement
from core.evaluation.recommendation import Recommendation
from core.evaluation.verdict import Verdict
from core.explainer import Comparison, Explainer
from core.export import context_facts, cost_facts, finite, result_facts, save_npz, save_png
from core.inputs.batch import InputBatch
from core.inputs.image import open_picture
from core.methods.base import METHODS
from core.metrics.base import METRICS, Metric, MetricInput
from core.models.load import load_model
from core.tasks.base import Target
from core.types import Score

SAVES = ("png", "npz", "json")


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``explain``: every method on every picture."""
    settings = parse_settings(arguments.set)
    instances = made(METHODS, arguments.methods, settings)
    if not instances:
        raise TimmscopeError(f"--methods {arguments.methods!r} names none; see 'methods'")
    metrics = made(METRICS, arguments.metrics, settings)
    if arguments.random_maps and not metrics:
        raise TimmscopeError(
            "--random-maps sets scores among others, and --metrics names none; add one"
        )
    if settings:
        raise TimmscopeError(
            f"--set names {', '.join(settings)}, which --methods does not ask for; add it there"
        )
    saves = [kind.strip() for kind in arguments.save.split(",") if kind.strip()]
    if odd := [kind for kind in saves if kind not in SAVES]:
        raise TimmscopeError(f"cannot save as {odd[0]!r}; choose from {', '.join(SAVES)}")
    pictures = [open_picture(path) for path in arguments.images]
    prepare(arguments.output_dir)
    handle = load_model(
        arguments.model, weights=arguments.weights, labels=arguments.labels, device=arguments.device
    )
    explainer = Explainer(handle)
    target = explainer.target(arguments.target)
    names = _unique_names(arguments.images)
    reports = []
    for path, name, picture in zip(arguments.images, names, pictures, strict=True):
        batch = explainer.prepare(picture)
        prediction = explainer.predict(batch)
        chosen = target or explainer.target(prediction.top(1)[0][0])
        assert chosen is not None
        comparison = explainer.compare(
            batch, instances, target=chosen, layer=arguments.layer, seed=arguments.seed
        )
        report = {
            "image": str(path),
            "notes": list(picture.notes),
            **context_facts(explainer, batch, prediction, chosen, arguments.seed),
            "results": {key: result_facts(a) for key, a in comparison.results.items()},
            "errors": dict(comparison.errors),
        }
        question: dict[str, Any] = {"target": chosen, "seed": arguments.seed}
        if arguments.ground_truth:
            question["ground_truth"] = explainer.ground_truth(
                batch, arguments.ground_truth, label=arguments.ground_truth_label
            )
        for metric in metrics:
            add_scores(
                report, explainer, batch, comparison, metric, question, arguments.random_maps
            )
        for key, answer in comparison.results.items() if arguments.verdict else ():
            (judged,) = explainer.verdict(batch, answer, target=chosen, seed=arguments.seed)
            report["results"][key]["verdict"] = verdict_facts(judged)
        if arguments.recommend and comparison.results:
            add_recommendation(report, explainer, batch, comparison, chosen, arguments.seed)
        if len(comparison.results) > 1:
            report["agreement"] = agreement_facts(explainer.agreement(batch, comparison.results))
        if arguments.output_dir is not None:
            save(arguments.output_dir, name, saves, batch, comparison, report)
        reports.append(report)
    answered = any(report["results"] for report in reports)
    return {"images": reports}, 0 if answered else 1


def add_scores(
    report: dict[str, Any],
    explainer: Explainer,
    batch: InputBatch,
    comparison: Comparison,
    metric: Metric,
    question: Mapping[str, Any],
    random_maps: int = 0,
) -> None:
    """Enter what `metric` says of each result, beside what it says of the controls.

    One that does not apply to a method says so under `errors` as "method.metric", one that applies
    to none as "metric"; the maps are kept.
    """
    beside: dict[str, float | None] = {}
    with suppress(*FAULTS):  # what is wrong is told of the methods
        controls = explainer.controls(batch, metric, **question)
        beside = {key: finite(float(score.value[0])) for key, score in controls.items()}
    reasons = {}
    for key, attribution in comparison.results.items():
        try:
            score = explainer.measure(batch, attribution, metric, **question)
        except FAULTS as error:
            reasons[key] = str(error).partition("\n")[0]
        else:
            scores = report["results"][key].setdefault("scores", {})
            scores[metric.key] = {**score_facts(score, metric), "controls": beside}
            if random_maps and MetricInput.METHOD not in metric.needs:
                found = explainer.percentile_rank(
                    batch, attribution, metric, maps=random_maps, **question
                )
                scores[metric.key]["percentile"] = float(found.percentile[0])
    if len(reasons) == len(comparison.results) and len(set(reasons.values())) == 1:
        reasons = {metric.key: reasons.popitem()[1]}
    else:
        reasons = {f"{key}.{metric.key}": reason for key, reason in reasons.items()}
    report["errors"].update(reasons)


def score_facts(score: Score, metric: Metric) -> dict[str, Any]:
    """The score of one map as JSON."""
    facts: dict[str, Any] = {
        "value": finite(float(score.value[0])),
        "higher_is_better": metric.higher_is_better,
        "params": dict(score.params),
        "cost": cost_facts(score.cost),
    }
    if score.low is not None and score.high is not None:
        facts["interval"] = [finite(float(end[0])) for end in (score.low, score.high)]
    return facts


def add_recommendation(
    report: dict[str, Any],
    explainer: Explainer,
    batch: InputBatch,
    comparison: Comparison,
    target: Target,
    seed: int,
) -> None:
    """Enter which method to take; why there is none to take stands under `errors`."""
    try:
        found = explainer.recommend(batch, comparison.results, target=target, seed=seed)
    except FAULTS as error:
        report["errors"]["recommendation"] = str(error).partition("\n")[0]
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


def agreement_facts(found: Agreement) -> dict[str, Any]:
    """How far methods agree as JSON: square tables, rows and columns in the order of `methods`."""
    tables = {name: getattr(found, name) for name in ("spearman", "overlap", "ssim")}
    return {
        "methods": list(found.methods),
        **{name: [[round(v, 4) for v in row] for row in t.tolist()] for name, t in tables.items()},
    }


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


def save(
    folder: Path,
    name: str,
    kinds: Sequence[str],
    batch: InputBatch,
    comparison: Comparison,
    report: dict[str, Any],
) -> None:
    """Write each result under `folder`, entering the paths into `report`.

    Raises:
        TimmscopeError: the folder cannot be written.
    """
    with writing(folder):
        for key, attribution in comparison.results.items():
            files = report["results"][key]["files"]
            for kind, write in (("png", save_png), ("npz", save_npz)):
                if kind in kinds:
                    path = folder / f"{name}.{key}.{kind}"
                    write(path, batch, attribution)
                    files[kind] = str(path)
        if "json" in kinds:
            path = folder / f"{name}.json"
            for key in comparison.results:
                report["results"][key]["files"]["json"] = str(path)
            path.write_text(to_json(report) + "\n", encoding="utf-8")


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """A file stem for each picture; pictures of one name in several folders are numbered."""
    names: list[str] = []
    for path in paths:
        stem, count = path.stem, 1
        while stem in names:
            count += 1
            stem = f"{path.stem}-{count}"
        names.append(stem)
    return names

"""``explain``: which pixels made the model predict so."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.cli.shared import (
    Command,
    add_evidence_arguments,
    add_method_arguments,
    check_writable,
    first_line,
    parse_methods,
    parse_metrics,
    parse_settings,
    refuse_unused,
    to_json,
    writing,
)
from core.errors import CancelledError, TimmscopeError
from core.evaluation.agreement import Agreement
from core.evaluation.recommendation import Recommendation
from core.evaluation.verdict import Verdict
from core.explainer import Explainer
from core.export import context_facts, cost_facts, result_facts, save_npz, save_png
from core.inputs.batch import InputBatch
from core.inputs.image import Picture, open_picture
from core.methods.configuration import Configuration
from core.metrics.base import Metric, MetricInput
from core.models.load import load_model
from core.tasks.query import Query
from core.types import Comparison, Score, finite

SAVES = ("png", "npz", "json")


@dataclass(frozen=True)
class Request:
    """What the command line asks for, checked before the model is loaded.

    Attributes:
        methods: configurations by name.
        metrics: instances by name.
        saves: kinds of files to write.
        arguments: everything else.
    """

    methods: Mapping[str, Configuration]
    metrics: Mapping[str, Metric]
    saves: Sequence[str]
    arguments: argparse.Namespace

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Request:
        """The request of parsed arguments.

        Raises:
            TimmscopeError: something named does not exist, or does not go together.
        """
        settings = parse_settings(arguments.set)
        methods = parse_methods(arguments.methods, settings)
        if not methods:
            raise TimmscopeError(f"--methods {arguments.methods!r} names none; see 'methods'")
        metrics = parse_metrics(arguments.metrics, settings)
        if arguments.random_maps and not metrics:
            raise TimmscopeError(
                "--random-maps ranks scores among random maps, and --metrics names none; add one"
            )
        refuse_unused(settings, "neither --methods nor --metrics")
        saves = [kind.strip() for kind in arguments.save.split(",") if kind.strip()]
        if odd := [kind for kind in saves if kind not in SAVES]:
            raise TimmscopeError(f"cannot save as {odd[0]!r}; choose from {', '.join(SAVES)}")
        return cls(methods, metrics, saves, arguments)


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``explain``: every method on every picture."""
    request = Request.read(arguments)
    pictures = [open_picture(path) for path in arguments.images]
    check_writable(arguments.output_dir)
    explainer = Explainer(
        load_model(
            arguments.model,
            weights=arguments.weights,
            labels=arguments.labels,
            device=arguments.device,
        )
    )
    explainer.target(arguments.target)  # an unknown class is refused before the first picture
    names = _unique_names(arguments.images)
    reports = [
        _report(request, explainer, path, name, picture)
        for path, name, picture in zip(arguments.images, names, pictures, strict=True)
    ]
    answered = any(report["results"] for report in reports)
    return {"images": reports}, 0 if answered else 1


def _report(
    request: Request, explainer: Explainer, path: Path, name: str, picture: Picture
) -> dict[str, Any]:
    """All about one picture, as JSON; its files are written."""
    arguments = request.arguments
    prediction = explainer.predict(batch := explainer.prepare(picture))
    target = arguments.target if arguments.target is not None else prediction.top(1)[0][0]
    query = explainer.query(batch, target=target, layer=arguments.layer, seed=arguments.seed)
    compared = explainer.compare(query, list(request.methods.values()))
    report: dict[str, Any] = {
        "image": str(path),
        "notes": list(picture.notes),
        **context_facts(explainer.model, query, prediction),
        "results": {key: result_facts(a) for key, a in compared.results.items()},
        "errors": dict(compared.errors),
    }
    if arguments.ground_truth:
        mask = explainer.ground_truth(
            batch, arguments.ground_truth, label=arguments.ground_truth_label
        )
        query = replace(query, ground_truth=mask)
    for key, metric in request.metrics.items():
        add_scores(report, explainer, query, compared, key, metric, arguments.random_maps)
    if arguments.verdict:
        add_verdicts(report, explainer, query, compared)
    if arguments.recommend and compared.results:
        add_recommendation(report, explainer, query, compared)
    if len(compared.results) > 1:
        report["agreement"] = agreement_facts(explainer.agreement(query, compared.results))
    if arguments.output_dir is not None:
        save(arguments.output_dir, name, request.saves, batch, compared, report)
    return report


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
    if score.low is not None and score.high is not None:
        facts["interval"] = [finite(float(end[0])) for end in (score.low, score.high)]
    return facts


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


def agreement_facts(found: Agreement) -> dict[str, Any]:
    """How far methods agree as JSON: square tables, rows and columns in the order of `methods`."""
    tables = {name: getattr(found, name) for name in ("spearman", "overlap", "ssim")}
    return {
        "methods": list(found.methods),
        **{
            name: [[finite(round(v, 4)) for v in row] for row in t.tolist()]
            for name, t in tables.items()
        },
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
    compared: Comparison,
    report: dict[str, Any],
) -> None:
    """Write each result under `folder`, entering the paths into `report`.

    Raises:
        TimmscopeError: the folder cannot be written.
    """
    with writing(folder):
        for key, attribution in compared.results.items():
            files = report["results"][key]["files"]
            for kind, write in (("png", save_png), ("npz", save_npz)):
                if kind in kinds:
                    path = folder / f"{name}.{file_name(key)}.{kind}"
                    write(path, batch, attribution)
                    files[kind] = str(path)
        if "json" in kinds:
            path = folder / f"{name}.json"
            for key in compared.results:
                report["results"][key]["files"]["json"] = str(path)
            path.write_text(to_json(report) + "\n", encoding="utf-8")


def file_name(key: str) -> str:
    """A configuration's name as part of a file's name.

    >>> file_name("gradcam"), file_name("lime(samples=20, segments=9)")
    ('gradcam', 'lime_samples-20_segments-9')
    """
    return re.sub(r"[^\w.@-]+", "_", key.replace("=", "-")).strip("_")


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


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    add_method_arguments(command)
    command.add_argument(
        "--target", help="a class, its number, or A-B; the predicted one by default"
    )
    command.add_argument("--metrics", default="", help="names, comma separated; see 'metrics'")
    add_evidence_arguments(command, "a mask, VOC .xml, COCO .json")
    command.add_argument(
        "--verdict", action="store_true", help="test whether each map can be trusted"
    )
    command.add_argument(
        "--recommend", action="store_true", help="which of the methods to use, and why"
    )
    command.add_argument("--labels", type=Path, help="a file of class names")
    command.add_argument("--output-dir", type=Path, help="where files go; none are written without")
    command.add_argument("--save", default="png,npz,json", help="png, npz, json; comma separated")


COMMAND = Command("which pixels made the model predict so", configure, run)

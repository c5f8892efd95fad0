"""``evaluate``: methods by metrics on many pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.cli.shared import made, parse_settings, prepare
from core.errors import TimmscopeError
from core.evaluation.journal import Journal
from core.evaluation.pictures import (
    annotation_finder,
    evaluate,
    picture_files,
    without_ground_truth,
)
from core.evaluation.rows import Row, RowKey
from core.evaluation.statistics import summary
from core.explainer import Explainer
from core.methods.base import METHODS, Method
from core.metrics.base import METRICS, Metric
from core.models.load import load_model


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``evaluate``: every method by every metric on many pictures."""
    settings = parse_settings(arguments.set)
    methods = made(METHODS, arguments.methods, settings)
    metrics = made(METRICS, arguments.metrics, settings)
    if settings:
        raise TimmscopeError(f"--set names {', '.join(settings)}, which is not asked for")
    if not methods or not metrics:
        raise TimmscopeError("evaluate needs at least one method and one metric; name them")
    ground_truth = _ground_truths(arguments.ground_truth)
    if lost := without_ground_truth(metrics, ground_truth is not None):
        raise TimmscopeError(
            f"{', '.join(lost)} needs to know where the evidence is; give --ground-truth"
        )
    pictures = picture_files(arguments.pictures)
    explainer = Explainer(
        load_model(arguments.model, weights=arguments.weights, device=arguments.device)
    )
    question = {
        "model": explainer.model.name,
        "weights": explainer.model.fingerprint(),
        "methods": {m.key: m.model_dump(mode="json") for m in methods},
        "metrics": {m.key: m.model_dump(mode="json") for m in metrics},
        "target": arguments.target,
        "layer": arguments.layer,
        "seed": arguments.seed,
        "ground_truth": arguments.ground_truth,
        "ground_truth_label": arguments.ground_truth_label,
        "random_maps": arguments.random_maps,
    }
    rows: list[Row] = []
    if arguments.rows is None:
        rows = list(
            _told(_rows(arguments, explainer, pictures, methods, metrics, ground_truth, ()))
        )
    else:
        prepare(arguments.rows.parent)
        with Journal(arguments.rows, question, arguments.resume) as journal:
            done = {row.key for row in journal.rows}
            for row in _told(
                _rows(arguments, explainer, pictures, methods, metrics, ground_truth, done)
            ):
                journal.add(row)
            journal.finish()
            rows = journal.rows
    answered = any(row.value is not None for row in rows)
    table = str(arguments.rows) if arguments.rows else [row.facts() for row in rows]
    report = {"model": explainer.model.name, "pictures": len(pictures), "rows": table}
    return {**report, "summary": summary(rows)}, 0 if answered else 1


def _rows(
    arguments: argparse.Namespace,
    explainer: Explainer,
    pictures: Sequence[Path],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    ground_truth: Callable[[Path], Any] | None,
    done: Collection[RowKey],
) -> Iterator[Row]:
    return evaluate(
        explainer,
        pictures,
        methods,
        metrics,
        target=explainer.target(arguments.target),
        layer=arguments.layer,
        seed=arguments.seed,
        ground_truth=ground_truth,
        label=arguments.ground_truth_label,
        random_maps=arguments.random_maps,
        done=done,
    )


def _told(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows as they come, with a line on stderr for every picture."""
    last, count = None, 0
    for row in rows:
        if row.picture != last:
            last, count = row.picture, count + 1
            sys.stderr.write(f"picture {count}: {row.picture}\n")
        yield row


def _ground_truths(source: str | None) -> Callable[[Path], Any] | None:
    """Gives each picture's truth: from a folder by its name, else the same for all."""
    if source is None:
        return None
    folder = Path(source)
    return annotation_finder(folder) if folder.is_dir() else lambda _: source

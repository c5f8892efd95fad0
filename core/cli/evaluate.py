"""``evaluate``: methods by metrics on many pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cli.pictures import HELP as PICTURES
from core.cli.pictures import named_files
from core.cli.shared import (
    INTERRUPTED,
    Command,
    add_crop_argument,
    add_evidence_arguments,
    add_method_arguments,
    check_writable,
    model_of,
    parse_methods,
    parse_metrics,
    parse_settings,
    printable,
    refuse_unused,
)
from core.errors import TimmscopeError
from core.evaluation.evaluate import (
    annotation_finder,
    evaluate,
    without_ground_truth,
)
from core.evaluation.journal import Journal
from core.evaluation.rows import Row, RowKey
from core.evaluation.statistics import summary
from core.explainer import Explainer
from core.inputs.crop import crop_text
from core.methods.configuration import Configuration
from core.metrics.base import Metric
from core.models.handle import ModelHandle


@dataclass(frozen=True)
class Request:
    """What the command line asks for, checked before the model is loaded.

    Attributes:
        pictures: files.
        methods: configurations by name.
        metrics: instances by name.
        ground_truth: gives each picture's ground truth; None if none is given.
        arguments: everything else.
    """

    pictures: Sequence[Path]
    methods: Mapping[str, Configuration]
    metrics: Mapping[str, Metric]
    ground_truth: Callable[[Path], Any] | None
    arguments: argparse.Namespace

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> Request:
        """The request of parsed arguments.

        Raises:
            TimmscopeError: something named does not exist, or does not go together.
        """
        settings = parse_settings(arguments.set)
        methods = parse_methods(arguments.methods, settings)
        metrics = parse_metrics(arguments.metrics, settings)
        refuse_unused(settings, "neither --methods nor --metrics")
        if not methods or not metrics:
            raise TimmscopeError("evaluate needs at least one method and one metric; name them")
        ground_truth = _ground_truths(arguments.ground_truth)
        if lacking := without_ground_truth(metrics.values(), ground_truth is not None):
            raise TimmscopeError(
                f"{', '.join(lacking)} needs to know where the evidence is; give --ground-truth"
            )
        pictures = named_files(arguments.pictures)
        return cls(pictures, methods, metrics, ground_truth, arguments)

    def facts(self, model: ModelHandle) -> dict[str, Any]:
        """All that decides the rows, as JSON; a journal is continued only for the same."""
        arguments = self.arguments
        return {
            "pictures": [str(path) for path in self.pictures],
            "model": model.name,
            "weights": model.fingerprint(),
            "methods": {
                name: {
                    **one.method.model_dump(mode="json"),
                    **({"@": one.layer} if one.layer else {}),
                }
                for name, one in self.methods.items()
            },
            "metrics": {name: one.model_dump(mode="json") for name, one in self.metrics.items()},
            "target": arguments.target,
            "layer": arguments.layer,
            "seed": arguments.seed,
            "ground_truth": arguments.ground_truth,
            "ground_truth_label": arguments.ground_truth_label,
            "random_maps": arguments.random_maps,
            **({"crop": crop_text(arguments.crop)} if arguments.crop else {}),
        }

    def rows(self, explainer: Explainer, done: Collection[RowKey] = ()) -> Iterator[Row]:
        """The rows, with a line on stderr for every picture."""
        arguments = self.arguments
        return _reported(
            evaluate(
                explainer,
                self.pictures,
                list(self.methods.values()),
                list(self.metrics.values()),
                target=explainer.target(arguments.target),
                layer=arguments.layer,
                seed=arguments.seed,
                ground_truth=self.ground_truth,
                label=arguments.ground_truth_label,
                random_maps=arguments.random_maps,
                crop=arguments.crop,
                done=done,
            )
        )


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``evaluate``: every method by every metric on many pictures."""
    request = Request.read(arguments)
    explainer = Explainer(model_of(arguments))
    rows: list[Row] = []
    interrupted = False
    if arguments.rows is None:
        interrupted = _collect(request.rows(explainer), rows.append)
    else:
        check_writable(arguments.rows.parent)
        question = request.facts(explainer.model)
        with Journal(arguments.rows, question, arguments.resume) as journal:
            done = {row.key for row in journal.rows}
            interrupted = _collect(request.rows(explainer, done), journal.add)
            if not interrupted:
                journal.finish()
            rows = journal.rows
    answered = any(row.value is not None for row in rows if row.method in request.methods)
    kept = arguments.rows is not None and not interrupted
    table = str(arguments.rows) if kept else [row.facts() for row in rows]
    report = {
        "model": explainer.model.name,
        "pictures": len(request.pictures),
        "crop": crop_text(arguments.crop) or None,
        "rows": table,
    }
    if interrupted:
        way = "; go on with --resume" if arguments.rows else ""
        sys.stderr.write(f"interrupted: {len(rows)} rows are done{way}\n")
        return {**report, "summary": summary(rows), "interrupted": True}, INTERRUPTED
    return {**report, "summary": summary(rows)}, 0 if answered else 1


def _collect(rows: Iterator[Row], keep: Callable[[Row], None]) -> bool:
    """Keeps rows as they come; whether Ctrl-C ended them."""
    try:
        for row in rows:
            keep(row)
    except KeyboardInterrupt:
        return True
    return False


def _reported(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows as they come, with a line on stderr for every picture."""
    last, count = None, 0
    for row in rows:
        if row.picture != last:
            last, count = row.picture, count + 1
            sys.stderr.write(f"picture {count}: {printable(row.picture)}\n")
        yield row


def _ground_truths(source: str | None) -> Callable[[Path], Any] | None:
    """A function giving a picture's ground truth: by its name in a folder, or one for all."""
    if source is None:
        return None
    folder = Path(source)
    return annotation_finder(folder) if folder.is_dir() else lambda _: source


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    command.add_argument("pictures", nargs="+", metavar="PICTURE", help=PICTURES)
    add_method_arguments(command, "gradcam,integrated_gradients")
    add_crop_argument(command)
    command.add_argument(
        "--target", help="a class or its number, A-B, A+B, 'not A'; the predicted one by default"
    )
    command.add_argument("--metrics", default="srg", help="names, comma separated; see 'metrics'")
    add_evidence_arguments(
        command, "a folder with a mask or annotation for each picture, COCO .json"
    )
    command.add_argument("--rows", type=Path, metavar="FILE", help="a .csv, .json or .parquet")
    command.add_argument("--resume", action="store_true", help="continue an interrupted evaluation")


COMMAND = Command("methods by metrics on many pictures", configure, run)

"""``explain``: which pixels made the model predict so."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core.cli.files import ResultFiles, distinct, replacing, request_key
from core.cli.pictures import HELP as PICTURES
from core.cli.pictures import Named, named_pictures, require_one_readable
from core.cli.shared import (
    INTERRUPTED,
    Command,
    add_crop_argument,
    add_evidence_arguments,
    add_method_arguments,
    check_writable,
    count,
    model_of,
    parse_methods,
    parse_metrics,
    parse_settings,
    printable,
    refuse_unused,
    to_json,
    writing,
)
from core.errors import CancelledError, PictureError, RegionError, TimmscopeError, first_line
from core.evaluation.classes import likeliest
from core.explainer import Explainer
from core.export import (
    DEFAULT_STYLE,
    context_facts,
    figure_text,
    file_stem,
    result_facts,
    save_npz,
    save_png,
    save_svg,
)
from core.inputs.batch import InputBatch, OnPartial
from core.methods.configuration import Configuration
from core.metrics.base import Metric
from core.models.handle import ModelHandle
from core.report import (
    add_recommendation,
    add_scores,
    add_summaries,
    add_verdicts,
    agreement_facts,
    ways_out_facts,
)
from core.tasks.base import TargetLike
from core.tasks.query import Query
from core.tasks.region import InRegion
from core.types import Attribution, Comparison, Need, Prediction

SAVES = ("png", "svg", "npz", "json")


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
        return cls(methods, metrics, parse_saves(arguments.save), arguments)


def parse_saves(text: str) -> list[str]:
    """Kinds of files to write, from a comma separated list.

    Raises:
        TimmscopeError: there is no such kind.
    """
    saves = [kind.strip() for kind in text.split(",") if kind.strip()]
    if odd := [kind for kind in saves if kind not in SAVES]:
        raise TimmscopeError(f"cannot save as {odd[0]!r}; choose from {', '.join(SAVES)}")
    return saves


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``explain``: every method on every picture, one after another."""
    request = Request.read(arguments)
    pictures = named_pictures(arguments.images)
    require_one_readable(pictures)
    check_writable(arguments.output_dir)
    explainer = Explainer(model_of(arguments))
    explainer.target(_target(arguments))  # an unknown class is refused before the first picture
    reports: list[dict[str, Any]] = []
    done = 0
    try:
        for found in _reports(request, explainer, pictures):
            reports += found
            done += 1
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {done} of {len(pictures)} pictures are done\n")
        return {"images": reports, "interrupted": True}, INTERRUPTED
    answered = any(report["results"] for report in reports)
    return {"images": reports}, 0 if answered else 1


def _reports(
    request: Request, explainer: Explainer, pictures: Sequence[Named]
) -> Iterator[list[dict[str, Any]]]:
    """The reports on each picture, with a line on stderr if there are several.

    A picture that cannot be read is reported with the reason, and the others go on. Any other
    error is one of the whole request, unless a picture has been answered before.

    Raises:
        TimmscopeError: no picture can be answered; the first reason.
    """
    folder = request.arguments.output_dir
    files = None if folder is None else ResultFiles(folder)
    reasons: list[TimmscopeError] = []
    for number, picture in enumerate(pictures, 1):
        if len(pictures) > 1:
            sys.stderr.write(f"picture {number} of {len(pictures)}: {printable(picture.name)}\n")
        try:
            found = _reports_of(request, explainer, picture, files)
        except CancelledError:
            raise
        except TimmscopeError as error:
            reasons.append(error)
            if len(pictures) == 1 or number == len(reasons) == len(pictures):
                raise reasons[0] from None
            if number == len(reasons) and not isinstance(error, PictureError):
                raise
            reason = first_line(error)
            sys.stderr.write(f"skipped: {reason}\n")
            found = [
                {
                    "image": picture.name,
                    "notes": [],
                    "results": {},
                    "errors": {"picture": reason},
                    "ways_out": {},
                }
            ]
        yield found


def _reports_of(
    request: Request, explainer: Explainer, picture: Named, files: ResultFiles | None
) -> list[dict[str, Any]]:
    """A report on each class of one picture that is explained."""
    arguments = request.arguments
    batch = explainer.prepare(picture.source, crop=arguments.crop)
    prediction = explainer.predict(batch)
    if not arguments.each_class:
        target = _target(arguments)
        target = prediction.main_class() if target is None else target
        query = _query(explainer, batch, arguments, target)
        return [_report(request, explainer, picture, query, files, picture.stem)]
    reports = []
    targets = likeliest(prediction, arguments.each_class)
    regions = [_target(arguments, target) for target in targets]
    for target, asked in zip(targets, regions, strict=True):
        query = _query(explainer, batch, arguments, asked, regions)
        stem = f"{picture.stem}-{file_stem(prediction.label(target))}"
        reports.append(_report(request, explainer, picture, query, files, stem))
    return reports


def _target(arguments: argparse.Namespace, target: TargetLike = None) -> TargetLike:
    """The target asked for, or the given one, in the part of the picture that is asked about."""
    target = arguments.target if target is None else target
    region = arguments.point or arguments.region
    return InRegion(target, region) if region else target


def _query(
    explainer: Explainer,
    batch: InputBatch,
    arguments: argparse.Namespace,
    target: TargetLike,
    more: Sequence[TargetLike] = (),
) -> Query:
    """The question about one class; `more` are those that share its pass.

    Raises:
        TimmscopeError: the model has no such class, or no probability where that is asked for.
        PictureError: the picture has no such region.
    """

    def scored(one: TargetLike) -> TargetLike:
        found = explainer.target(one)
        return found.probability() if found and arguments.score == "probability" else found

    asked, others = scored(target), [scored(one) for one in more]
    try:
        return explainer.query(
            batch,
            target=asked,
            extra_targets=others,
            layer=arguments.layer,
            seed=arguments.seed,
            stop_after=arguments.stop_after,
        )
    except RegionError as error:  # a fault of this picture, as if it could not be read
        raise PictureError(str(error)) from error


def _report(
    request: Request,
    explainer: Explainer,
    picture: Named,
    query: Query,
    files: ResultFiles | None,
    stem: str,
) -> dict[str, Any]:
    """All about one target of one picture, as JSON; its files, which `stem` begins, are written."""
    arguments, batch = request.arguments, query.batch
    prediction = explainer.predict(batch)
    if arguments.ground_truth:
        query = replace(query, ground_truth=_ground_truth(explainer, batch, arguments))
    methods = list(request.methods.values())
    if arguments.each_layer:
        query, methods = at_each_layer(explainer, query, methods)
    patient = replace(query, on_partial=_enough_after(arguments.seconds))
    compared = explainer.compare(patient, methods)
    report: dict[str, Any] = {
        "image": picture.name,
        "notes": [*batch.pictures[0].notes, *filter(None, [explainer.model.domain_note])],
        **context_facts(explainer.model, query, prediction),
        "results": {key: result_facts(a) for key, a in compared.results.items()},
        "errors": dict(compared.errors),
        "ways_out": ways_out_facts(compared.ways_out),
    }
    for key, metric in request.metrics.items():
        add_scores(report, explainer, query, compared, key, metric, arguments.random_maps)
    if arguments.summary:
        add_summaries(report, explainer, query, compared)
    if arguments.verdict:
        add_verdicts(report, explainer, query, compared)
    if arguments.recommend and compared.results:
        add_recommendation(report, explainer, query, compared)
    if len(compared.results) > 1:
        report["agreement"] = agreement_facts(explainer.agreement(query, compared.results))
    if files is not None:
        report["request"] = request_key(arguments, picture.identity)
        asked = Asked(explainer.model, query, prediction)
        save(files, stem, request.saves, asked, compared, report)
    return report


def at_each_layer(
    explainer: Explainer, query: Query, methods: Sequence[Configuration]
) -> tuple[Query, list[Configuration]]:
    """Methods that look at a layer, at the last layer of each stage; all share one pass."""
    stages = [layer.name for layer in explainer.model.stages()]
    each: list[Configuration] = []
    for one in methods:
        looks = Need.LAYER in one.method.layer_needs() and not one.layer
        each += [replace(one, layer=name) for name in stages] if looks and stages else [one]
    return replace(query, extra_layers=tuple(stages)), each


def _enough_after(seconds: float | None) -> OnPartial | None:
    """Stops a method that has worked for so long, and keeps its map."""
    return None if seconds is None else lambda found: found.cost.seconds >= seconds


def _ground_truth(explainer: Explainer, batch: InputBatch, arguments: argparse.Namespace) -> Tensor:
    """Where the evidence is in one picture; what does not fit it is a fault of that picture."""
    try:
        return explainer.ground_truth(
            batch, arguments.ground_truth, label=arguments.ground_truth_label
        )
    except TimmscopeError as error:
        raise PictureError(str(error)) from error


@dataclass(frozen=True)
class Asked:
    """What files of results are about.

    Attributes:
        model: the model.
        query: the picture and the target.
        prediction: of the picture.
    """

    model: ModelHandle
    query: Query
    prediction: Prediction

    def write(self, kind: str, path: Path, attribution: Attribution, request: str) -> None:
        """Write a map as a file of a kind, "png", "svg" or "npz"."""
        batch = self.query.batch
        if kind == "npz":
            facts = context_facts(self.model, self.query, self.prediction)
            save_npz(path, batch, attribution, facts, request)
            return
        text = figure_text(self.model, self.query, self.prediction, attribution)
        draw = save_png if kind == "png" else save_svg
        draw(path, batch, attribution, DEFAULT_STYLE, text, request)


def save(
    files: ResultFiles,
    name: str,
    kinds: Sequence[str],
    asked: Asked,
    compared: Comparison,
    report: dict[str, Any],
) -> None:
    """Write each result, entering the paths into `report`.

    Raises:
        TimmscopeError: the folder cannot be written.
    """
    keys, request = list(compared.results), report["request"]
    parts = dict(zip(keys, distinct([file_name(key) for key in keys]), strict=True))
    drawn = [kind for kind in SAVES if kind in kinds and kind != "json"]
    ends = [f".{part}.{kind}" for part in parts.values() for kind in drawn]
    with writing(files.folder):
        stem = files.stem(name, [*ends, *([".json"] if "json" in kinds else [])], request)
        for key, attribution in compared.results.items():
            for kind in drawn:
                path = files.folder / f"{stem}.{parts[key]}.{kind}"
                with replacing(path) as part:
                    asked.write(kind, part, attribution, request)
                report["results"][key]["files"][kind] = str(path)
        if "json" in kinds:
            path = files.folder / f"{stem}.json"
            for key in keys:
                report["results"][key]["files"]["json"] = str(path)
            with replacing(path) as part:
                part.write_text(to_json(report) + "\n", encoding="utf-8")


def file_name(key: str) -> str:
    """A configuration's name as part of a file's name.

    >>> file_name("gradcam"), file_name("lime(samples=20, segments=9)")
    ('gradcam', 'lime_samples-20_segments-9')
    """
    return re.sub(r"[^\w.@-]+", "_", key.replace("=", "-")).strip("_")


def _seconds(text: str) -> float:
    """A number of seconds, as an argument's type.

    Raises:
        ArgumentTypeError: the text is no positive number.
    """
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a positive number of seconds")


def _point(text: str) -> str:
    """A pixel, as an argument's type.

    Raises:
        ArgumentTypeError: the text is not two whole numbers.
    """
    if not re.fullmatch(r"\s*\d{1,6}\s*,\s*\d{1,6}\s*", text):
        raise argparse.ArgumentTypeError(
            f"{text[:20]!r} is no pixel; give x,y in pixels of the picture, such as 120,80"
        )
    return text


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    command.add_argument("images", nargs="+", metavar="IMAGE", help=PICTURES)
    add_method_arguments(command)
    add_crop_argument(command)
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--target", "--class",
        help="a class or its number, A-B, A+B, 'not A'; the predicted one by default",
    )  # fmt: skip
    what.add_argument(
        "--each-class", type=count, default=0, metavar="N",
        help="a report on each of the N likeliest classes; CAM methods take one forward pass",
    )  # fmt: skip
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--region", metavar="predicted|whole|BOX|FILE",
        help="of a segmenter, where the class is explained: left,top,right,bottom in pixels of the "
        "picture, or a mask; by default where it is predicted",
    )  # fmt: skip
    where.add_argument(
        "--point",
        type=_point,
        metavar="X,Y",
        help="of a segmenter, the one pixel to explain",
    )
    command.add_argument(
        "--score", choices=("logit", "probability"), default="logit",
        help="which number of a class is explained",
    )  # fmt: skip
    command.add_argument(
        "--each-layer", action="store_true", help="CAM methods at the last layer of each stage"
    )
    command.add_argument(
        "--seconds", type=_seconds, metavar="N",
        help="stop a slow method after about N seconds and keep the map of the samples so far",
    )  # fmt: skip
    command.add_argument(
        "--stop-after", type=count, metavar="N",
        help="take at most N samples of a slow method, the first that it would take",
    )  # fmt: skip
    command.add_argument("--metrics", default="", help="names, comma separated; see 'metrics'")
    add_evidence_arguments(command, "a mask, VOC .xml, COCO .json")
    command.add_argument(
        "--summary", action="store_true", help="where the evidence lies, and what hiding it does"
    )
    command.add_argument(
        "--verdict", action="store_true", help="test whether each map can be trusted"
    )
    command.add_argument(
        "--recommend", action="store_true", help="which of the methods to use, and why"
    )
    command.add_argument("--output-dir", type=Path, help="where files go; none are written without")
    command.add_argument(
        "--save", default="png,npz,json", help=f"{', '.join(SAVES)}; comma separated"
    )


COMMAND = Command("which pixels made the model predict so", configure, run)

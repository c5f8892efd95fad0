"""``compare``: one method on several models, or on several pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cli.explain import SAVES, Asked, file_name, parse_saves, save
from core.cli.files import ResultFiles, request_key
from core.cli.pictures import HELP as PICTURES
from core.cli.pictures import Named, named_pictures, require_one_readable
from core.cli.shared import (
    Command,
    add_crop_argument,
    check_writable,
    model_of,
    parse_methods,
    parse_settings,
    printable,
    refuse_unused,
)
from core.cli.ways_out import lines_to_try
from core.errors import TimmscopeError
from core.evaluation.side_by_side import Side, SideBySide, side_by_side
from core.explainer import Explainer, numbered
from core.export import result_facts
from core.methods.configuration import Configuration
from core.registry import split_names
from core.report import side_by_side_facts, side_facts
from core.types import Comparison


@dataclass(frozen=True)
class Compared:
    """One of what is compared.

    Attributes:
        explainer: of the model.
        picture: what the model is asked about.
        stem: what its files are called.
    """

    explainer: Explainer
    picture: Named
    stem: str


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``compare``: what each model, or each picture, gives."""
    configuration, kinds = _configuration(arguments), parse_saves(arguments.save)
    pictures = named_pictures(arguments.images)
    models = split_names(arguments.models) or [arguments.model]
    if (len(pictures) > 1) == (len(models) > 1):
        raise TimmscopeError(
            f"{_counted(models, 'model')} and {_counted(pictures, 'picture')} are named; name "
            "several models for one picture, or several pictures for one model"
        )
    require_one_readable(pictures)
    check_writable(arguments.output_dir)
    asked = _asked(arguments, models, pictures)
    found = side_by_side(
        {name: (one.explainer, one.picture.source) for name, one in asked.items()},
        configuration,
        target=arguments.target,
        layer=arguments.layer,
        seed=arguments.seed,
        crop=arguments.crop,
    )
    for name, reason in found.errors.items():
        sys.stderr.write(f"{printable(name)}: {reason}\n")
        sys.stderr.write(lines_to_try(found.ways_out.get(name, ()), arguments))
    reports = {name: _report(asked[name], side) for name, side in found.sides.items()}
    if arguments.output_dir is not None:
        for name, report in reports.items():
            _save(arguments, kinds, name, asked[name], found.sides[name], report)
    return _facts(configuration, len(models) > 1, found, reports), 0 if found.sides else 1


def _counted(some: Sequence[object], noun: str) -> str:
    return f"{len(some)} {noun}{'' if len(some) == 1 else 's'}"


def _asked(
    arguments: argparse.Namespace, models: Sequence[str], pictures: Sequence[Named]
) -> dict[str, Compared]:
    """What is compared, by the name of the model or of the picture."""
    explainers = [
        Explainer(model_of(argparse.Namespace(**{**vars(arguments), "model": model})))
        for model in models
    ]
    if len(pictures) > 1:
        (explainer,) = explainers
        names = numbered([picture.name for picture in pictures])
        compared = [Compared(explainer, picture, picture.stem) for picture in pictures]
    else:
        (picture,) = pictures
        names = numbered([explainer.model.name for explainer in explainers])
        compared = [
            Compared(explainer, picture, f"{picture.stem}.{file_name(name)}")
            for explainer, name in zip(explainers, names, strict=True)
        ]
    return dict(zip(names, compared, strict=True))


def _report(asked: Compared, side: Side) -> dict[str, Any]:
    """All about one side, as ``explain`` reports a picture."""
    model = asked.explainer.model
    return {
        "image": asked.picture.name,
        "notes": [*side.query.batch.pictures[0].notes, *filter(None, [model.domain_note])],
        **side_facts(model, side),
        "results": {side.attribution.method: result_facts(side.attribution)},
        "errors": {},
        "ways_out": {},
    }


def _save(
    arguments: argparse.Namespace,
    kinds: Sequence[str],
    name: str,
    asked: Compared,
    side: Side,
    report: dict[str, Any],
) -> None:
    """Write the files of one side, entering their paths into its report."""
    report["request"] = request_key(arguments, f"{asked.picture.identity} {name}")
    comparison = Comparison({side.attribution.method: side.attribution}, {})
    files = ResultFiles(arguments.output_dir)
    about = Asked(asked.explainer.model, side.query, side.prediction)
    save(files, asked.stem, kinds, about, comparison, report)


def _facts(
    configuration: Configuration,
    of_models: bool,
    found: SideBySide,
    reports: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    return {
        "compared": "models" if of_models else "pictures",
        "method": configuration.name,
        "sides": dict(reports),
        **side_by_side_facts(found),
    }


def _configuration(arguments: argparse.Namespace) -> Configuration:
    settings = parse_settings(arguments.set)
    found = parse_methods(arguments.method, settings)
    refuse_unused(settings, "--method")
    if len(found) != 1:
        raise TimmscopeError(
            f"--method {arguments.method!r} names {len(found)} methods; name one, and compare "
            "methods with: explain --methods A,B"
        )
    (configuration,) = found.values()
    return configuration


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = command.add_argument
    add("images", nargs="+", metavar="IMAGE", help=f"{PICTURES}; one, if models are compared")
    add("--models", default="", help="names, comma separated, in place of --model")
    add("--method", default="gradcam", help="gradcam, gradcam@LAYER, lime(samples=200); one method")
    add("--set", action="append", default=[], metavar="KEY.PARAM=VALUE", help="a parameter")
    add("--layer", help="the layer of CAM or attention methods; see 'layers'")
    add("--seed", type=int, default=0, help="where random draws start")
    add_crop_argument(command)
    add(
        "--target",
        help="a class as the first model calls it, looked up by label in the others; by default "
        "each explains its own prediction",
    )
    add("--output-dir", type=Path, help="where files go; none are written without")
    add("--save", default="png,npz,json", help=f"{', '.join(SAVES)}; comma separated")


COMMAND = Command("one method on several models, or on several pictures", configure, run)

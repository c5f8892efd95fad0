"""The command line: ``python -m core``. One JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from core.cli import evaluate, explain, features, listings, sanity_checks
from core.cli.shared import to_json
from core.errors import TimmscopeError
from core.models.load import DEFAULT_MODEL

PROGRAM = f"python -m {__name__.partition('.')[0]}"
"""How this command line is started, in the checkout and installed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 if anything was answered, 1 if nothing could be, 2 for unusable input.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=arguments.log_level, format="%(message)s")
    try:
        answer, code = arguments.command(arguments)
    except TimmscopeError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    try:
        sys.stdout.write(to_json(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(code)


class _Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _count(text: str) -> int:
    """A whole number from 0 to 10000."""
    if not text.isascii() or not text.isdigit() or int(text) > 10_000:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 0 to 10000")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="See why a vision model decided.")
    parser.add_argument(
        "--log-level", default="WARNING", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    model = _Parser(add_help=False)
    model.add_argument(
        "--model", default=DEFAULT_MODEL, help="a timm name, hf-hub:owner/name, or a folder"
    )
    model.add_argument("--weights", help="a checkpoint file, or 'random'")
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps; chosen automatically by default")

    command = commands.add_parser("explain", parents=[model], help="which pixels made it so")
    command.set_defaults(command=explain.run)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument(
        "--methods", default="gradcam", help="keys, comma separated; see 'methods'"
    )
    command.add_argument(
        "--target", help="a class, its number, or A-B; the predicted one by default"
    )
    command.add_argument("--layer", help="where CAM or attention methods look; see 'layers'")
    command.add_argument(
        "--set", action="append", default=[], metavar="METHOD.PARAM=VALUE", help="a parameter"
    )
    command.add_argument("--metrics", default="", help="keys, comma separated; see 'metrics'")
    command.add_argument(
        "--ground-truth",
        metavar="FILE|BOX",
        help="where the evidence is: a mask, VOC .xml, COCO .json, or left,top,right,bottom",
    )
    command.add_argument(
        "--ground-truth-label",
        help="only objects of this class in the annotation; in a mask, its number",
    )
    command.add_argument(
        "--verdict", action="store_true", help="put every map to the test, beside the controls"
    )
    command.add_argument(
        "--random-maps",
        type=_count,
        default=0,
        metavar="N",
        help="where maps stand among N random ones",
    )
    command.add_argument(
        "--recommend", action="store_true", help="which of the methods to take, and why"
    )
    command.add_argument("--labels", type=Path, help="a file of class names")
    command.add_argument("--output-dir", type=Path, help="where files go; none are written without")
    command.add_argument("--save", default="png,npz,json", help="png, npz, json; comma separated")
    command.add_argument("--seed", type=int, default=0)

    command = commands.add_parser(
        "evaluate", parents=[model], help="methods by metrics on many pictures"
    )
    command.set_defaults(command=evaluate.run)
    command.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE|FOLDER")
    command.add_argument("--methods", default="gradcam,integrated_gradients", help="keys")
    command.add_argument("--metrics", default="srg", help="keys; see 'metrics'")
    command.add_argument("--target", help="a class, its number, or A-B; the predicted by default")
    command.add_argument("--layer", help="where CAM or attention methods look")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY.PARAM=VALUE", help="a parameter"
    )
    command.add_argument(
        "--ground-truth",
        metavar="FILE|FOLDER|BOX",
        help="where the evidence is: a folder with a mask or annotation for each picture, COCO "
        ".json, or left,top,right,bottom",
    )
    command.add_argument(
        "--ground-truth-label",
        help="only objects of this class in the annotation; in a mask, its number",
    )
    command.add_argument(
        "--random-maps",
        type=_count,
        default=0,
        metavar="N",
        help="where maps stand among N random ones",
    )
    command.add_argument("--rows", type=Path, metavar="FILE", help="a .csv, .json or .parquet")
    command.add_argument("--resume", action="store_true", help="go on with work that did not end")
    command.add_argument("--seed", type=int, default=0)

    command = commands.add_parser(
        "sanity", parents=[model], help="whether methods depend on what a model has learnt"
    )
    command.set_defaults(command=sanity_checks.run)
    command.add_argument("--methods", default="gradcam", help="keys, comma separated")
    command.add_argument("--layer", help="where CAM or attention methods look")
    command.add_argument(
        "--set", action="append", default=[], metavar="METHOD.PARAM=VALUE", help="a parameter"
    )
    command.add_argument("--seed", type=int, default=0)

    command = commands.add_parser("features", parents=[model], help="a layer's feature maps")
    command.set_defaults(command=features.run)
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("--layer", help="by default where CAM methods look")
    command.add_argument("--top", type=int, default=16, help="how many channels")
    command.add_argument("--by", choices=["activation", "variance"], default="activation")
    command.add_argument("--attention", action="store_true", help="attention heads instead")
    command.add_argument("--query", default="auto", help="who looks: class, mean, a patch's number")
    command.add_argument("--output-dir", type=Path, help="where the maps go, as NPZ")

    command = commands.add_parser("methods", help="every method with its parameters")
    command.set_defaults(command=listings.methods)

    command = commands.add_parser("metrics", help="every metric with its parameters")
    command.set_defaults(command=listings.metrics)

    command = commands.add_parser("models", help="every model timm knows")
    command.set_defaults(command=listings.models)
    command.add_argument("pattern", nargs="?", default="", help="a part of the name, or a pattern")

    command = commands.add_parser("layers", parents=[model], help="a model's layers")
    command.set_defaults(command=listings.layers)
    return parser

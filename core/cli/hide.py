"""``hide``: what the model says of a picture while a part of it is hidden."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from core.cli.shared import Command, add_crop_argument, check_writable, model_of, writing
from core.errors import TimmscopeError
from core.explainer import Explainer
from core.perturb.imputation import RemovalBaseline
from core.report import hiding_facts


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``hide``: the prediction before and while a part of the picture is hidden."""
    if arguments.save is not None and arguments.save.suffix.lower() != ".png":
        raise TimmscopeError(f"--save {arguments.save} is no PNG; give a name that ends in .png")
    check_writable(arguments.save and arguments.save.parent)
    explainer = Explainer(model_of(arguments))
    target = explainer.target(arguments.target)
    batch = explainer.prepare(arguments.image, crop=arguments.crop)
    query = explainer.query(batch, target=target)
    found = explainer.hide(
        query,
        arguments.region,
        keep_only=arguments.keep_only,
        baseline=arguments.baseline,
    )
    report: dict[str, Any] = {
        "model": explainer.model.name,
        "crop": batch.geometries[0].to_dict(),
        **hiding_facts(found),
        "files": {},
    }
    if arguments.save is not None:
        with writing(arguments.save.parent):
            seen = (found.pixels[0] * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(seen.squeeze()).save(arguments.save)
        report["files"]["png"] = str(arguments.save)
    return report, 0


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument(
        "region",
        metavar="FILE|BOX",
        help="what is hidden: a mask, VOC .xml, COCO .json, or left,top,right,bottom",
    )
    command.add_argument("--keep-only", action="store_true", help="hide everything else instead")
    command.add_argument(
        "--baseline",
        choices=get_args(RemovalBaseline),
        default="blur",
        help="what replaces hidden pixels",
    )
    command.add_argument("--target", help="whose score is followed; the predicted class by default")
    add_crop_argument(command)
    command.add_argument("--save", type=Path, metavar="PNG", help="write what the model was shown")


COMMAND = Command("what the model says while a part of the picture is hidden", configure, run)

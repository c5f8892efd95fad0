"""``features``: what channels, heads or patches respond to, are like or attend to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.analysis.patches import PatchLayer
from core.cli.files import ResultFiles, replacing, request_key
from core.cli.shared import Command, add_crop_argument, check_writable, model_of, writing
from core.explainer import Explainer
from core.export import sign_npz
from core.inputs.batch import InputBatch
from core.inputs.preprocessing import Geometry
from core.report import features_facts
from core.types import finite


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``features``: what a layer's channels, or a transformer's heads, respond to."""
    check_writable(arguments.output_dir)
    handle = model_of(arguments)
    explainer = Explainer(handle)
    picture = explainer.prepare(arguments.image, crop=arguments.crop)
    maps: Mapping[str, Any]
    if arguments.patch is not None:
        report, maps = _patch(arguments, explainer, picture)
    elif arguments.attention:
        heads = explainer.attention(picture, layer=arguments.layer, query=arguments.query)
        report = {"model": handle.name, "heads": len(heads), "grid": heads.shape[1:]}
        maps = {f"head{i}": head.numpy() for i, head in enumerate(heads)}
    else:
        found = explainer.features(
            picture, layer=arguments.layer, top=arguments.top, by=arguments.by
        )
        names = [f"channel{int(i)}" for i in found.channels]
        maps = dict(zip(names, found.maps.numpy(), strict=True))
        report = {"model": handle.name, **features_facts(found)}
    report["crop"] = picture.geometries[0].to_dict()
    report["files"] = {}
    if arguments.output_dir is not None:
        report["files"]["npz"] = str(_save(arguments, maps))
    return report, 0


def _patch(
    arguments: argparse.Namespace, explainer: Explainer, picture: InputBatch
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a patch of the picture is like and attends to: a report, and maps by name."""
    layers = None if arguments.layer is None else [arguments.layer]
    found = explainer.patches(picture, layers=layers)
    geometry = picture.geometries[0]
    x, y = geometry.to_input(*arguments.patch)
    height, width = geometry.input
    report: dict[str, Any] = {
        "model": explainer.model.name,
        "patch": dict(zip("xy", arguments.patch, strict=True)),
        "similarity": [],
        "attention": [],
        "reasons": dict(found.reasons),
        "notes": list(found.notes),
    }
    maps = {}
    for one in found:
        row = one.row_at(x / width, y / height)
        shown = one.maps(row)
        report[one.kind].append(_described(one, row, geometry))
        maps[f"{one.kind}.{one.layer}"] = (shown if one.kind == "attention" else shown[0]).numpy()
    return report, maps


def _described(one: PatchLayer, row: int, geometry: Geometry) -> dict[str, Any]:
    """A layer's answer about one patch, with its five strongest patches."""
    values = one.values[:, row].mean(0)
    strongest = values.topk(min(5, len(values))).indices.tolist()
    told: dict[str, Any] = {
        "layer": one.layer,
        "grid": list(one.grid),
        "cell": {"column": row % one.grid[1], "row": row // one.grid[1]},
        "strongest": [
            {
                **dict(zip("xy", _centre(place, one.key_grid, geometry), strict=True)),
                "value": finite(float(values[place])),
            }
            for place in strongest
        ],
    }
    if one.kind == "attention":
        told |= {
            "heads": one.heads,
            "window": one.window,
            "other_tokens": [round(share, 6) for share in one.other_tokens[:, row].tolist()],
        }
    return told


def _centre(place: int, grid: tuple[int, int], geometry: Geometry) -> tuple[float, float]:
    """The centre of a patch, in pixels of the picture."""
    row, column = divmod(place, grid[1])
    height, width = geometry.input
    x, y = (column + 0.5) / grid[1] * width, (row + 0.5) / grid[0] * height
    return geometry.to_picture(x, y)


def _point(text: str) -> tuple[float, float]:
    """A point of the picture from "x,y", as an argument's type.

    Raises:
        ArgumentTypeError: the text is not two numbers.
    """
    try:
        x, y = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no point; give x,y in pixels of the picture, such as 300,200"
        ) from None
    return x, y


def _save(arguments: argparse.Namespace, maps: Mapping[str, Any]) -> Path:
    """Write the maps by name, and the request that they answer."""
    folder, image = arguments.output_dir, Path(arguments.image)
    kind = "attention" if arguments.attention else "features"
    end = f".{kind if arguments.patch is None else 'patch'}.npz"
    with writing(folder):
        request = request_key(arguments, os.path.realpath(image))
        stem = ResultFiles(folder).stem(image.stem, [end], request)
        path: Path = folder / f"{stem}{end}"
        with replacing(path) as part:
            np.savez_compressed(part, **maps)
            sign_npz(part, request)
    return path


def configure(command: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("--layer", help="by default the layer of CAM methods")
    command.add_argument("--top", type=int, default=16, help="how many channels")
    command.add_argument("--by", choices=["activation", "variance"], default="activation")
    command.add_argument("--attention", action="store_true", help="attention heads instead")
    command.add_argument(
        "--query", default="auto", help="the query token: class, mean, or a patch's number"
    )
    command.add_argument(
        "--patch",
        type=_point,
        metavar="X,Y",
        help="a point of the picture, in pixels: what its patch is like and attends to, in the "
        "stages' last layers, or in --layer",
    )
    add_crop_argument(command)
    command.add_argument("--output-dir", type=Path, help="where the maps go, as NPZ")


COMMAND = Command("the feature maps of a layer", configure, run)

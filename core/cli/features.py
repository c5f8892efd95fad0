"""``features``: what the channels of a layer, or the heads of a transformer, respond to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.cli.files import ResultFiles, replacing, request_key
from core.cli.shared import Command, check_writable, model_of, writing
from core.explainer import Explainer
from core.export import sign_npz
from core.report import features_facts


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``features``: what a layer's channels, or a transformer's heads, respond to."""
    check_writable(arguments.output_dir)
    handle = model_of(arguments)
    explainer = Explainer(handle)
    picture = explainer.prepare(arguments.image)
    if arguments.attention:
        heads = explainer.attention(picture, layer=arguments.layer, query=arguments.query)
        report: dict[str, Any] = {
            "model": handle.name,
            "heads": len(heads),
            "grid": heads.shape[1:],
        }
        maps, names = heads, [f"head{i}" for i in range(len(heads))]
    else:
        found = explainer.features(
            picture, layer=arguments.layer, top=arguments.top, by=arguments.by
        )
        maps, names = found.maps, [f"channel{int(i)}" for i in found.channels]
        report = {"model": handle.name, **features_facts(found)}
    report["files"] = {}
    if arguments.output_dir is not None:
        found_maps = dict(zip(names, maps.numpy(), strict=True))
        report["files"]["npz"] = str(_save(arguments, found_maps))
    return report, 0


def _save(arguments: argparse.Namespace, maps: Mapping[str, Any]) -> Path:
    """Write the maps by name, and the request that they answer."""
    folder, image = arguments.output_dir, Path(arguments.image)
    end = f".{'attention' if arguments.attention else 'features'}.npz"
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
    command.add_argument("--output-dir", type=Path, help="where the maps go, as NPZ")


COMMAND = Command("the feature maps of a layer", configure, run)

"""The command line: ``python -m core``. One JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from core.errors import TimmscopeError
from core.explainer import FAULTS, Comparison, Explainer, Look
from core.export import context_facts, cost_facts, finite, result_facts, save_npz, save_png
from core.image import open_picture
from core.methods.base import METHODS, Method
from core.metrics.base import METRICS, Metric
from core.models.catalogue import list_models
from core.models.handle import ModelHandle
from core.models.load import DEFAULT_MODEL, load_model
from core.targets import Target
from core.types import Layer

SAVES = ("png", "npz", "json")


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
        sys.stdout.write(_to_json(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(code)


# -- explain ------------------------------------------------------------------------------------


def explain(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``explain``: every method on every picture."""
    keys = [key.strip() for key in arguments.methods.split(",") if key.strip()]
    methods = list(dict.fromkeys(METHODS[key].key for key in keys))  # an alias is no second method
    if not methods:
        raise TimmscopeError(f"--methods {arguments.methods!r} names none; see 'methods'")
    settings = parse_settings(arguments.set)
    instances = [METHODS.make(key, settings.pop(key, {})) for key in methods]
    if settings:
        raise TimmscopeError(
            f"--set names {', '.join(settings)}, which --methods does not ask for; add it there"
        )
    saves = [kind.strip() for kind in arguments.save.split(",") if kind.strip()]
    if odd := [kind for kind in saves if kind not in SAVES]:
        raise TimmscopeError(f"cannot save as {odd[0]!r}; choose from {', '.join(SAVES)}")
    pictures = [open_picture(path) for path in arguments.images]
    metrics = [METRICS.make(key.strip()) for key in arguments.metrics.split(",") if key.strip()]
    _prepare(arguments.output_dir)
    handle = load_model(
        arguments.model, weights=arguments.weights, labels=arguments.labels, device=arguments.device
    )
    explainer = Explainer(handle)
    target = explainer.target(arguments.target)
    names = _unique_names(arguments.images)
    reports = []
    for path, name, picture in zip(arguments.images, names, pictures, strict=True):
        look = explainer.look(picture)
        prediction = explainer.predict(look)
        chosen = target or explainer.target(prediction.top(1)[0][0])
        assert chosen is not None
        comparison = explainer.compare(
            look, instances, target=chosen, layer=arguments.layer, seed=arguments.seed
        )
        report = {
            "image": str(path),
            "notes": list(picture.notes),
            **context_facts(explainer, look, prediction, chosen, arguments.seed),
            "results": {key: result_facts(a) for key, a in comparison.results.items()},
            "errors": dict(comparison.errors),
        }
        for metric in metrics:
            add_scores(report, explainer, look, comparison, metric, chosen, arguments.seed)
        if arguments.output_dir is not None:
            save(arguments.output_dir, name, saves, look, comparison, report)
        reports.append(report)
    answered = any(report["results"] for report in reports)
    return {"images": reports}, 0 if answered else 1


def add_scores(
    report: dict[str, Any],
    explainer: Explainer,
    look: Look,
    comparison: Comparison,
    metric: Metric,
    target: Target,
    seed: int,
) -> None:
    """Enter what `metric` says of each result, beside what it says of the controls.

    A metric that fails says so under `errors`, and the maps are kept.
    """
    try:
        controls = explainer.controls(look, metric, target=target, seed=seed)
        beside = {key: finite(float(score.value[0])) for key, score in controls.items()}
        for key, attribution in comparison.results.items():
            score = explainer.measure(look, attribution, metric, target=target, seed=seed)
            report["results"][key].setdefault("scores", {})[metric.key] = {
                "value": finite(float(score.value[0])),
                "higher_is_better": metric.higher_is_better,
                "controls": beside,
                "params": dict(score.params),
                "cost": cost_facts(score.cost),
            }
    except FAULTS as error:
        report["errors"][metric.key] = str(error).partition("\n")[0]


def parse_settings(pairs: Sequence[str]) -> dict[str, dict[str, object]]:
    """Parameters by method from ``method.param=value`` strings.

    >>> parse_settings(["integrated_gradients.steps=20"])
    {'integrated_gradients': {'steps': '20'}}
    """
    settings: dict[str, dict[str, object]] = {}
    for pair in pairs:
        match = re.fullmatch(r"([\w+]+)\.(\w+)=(.*)", pair, re.DOTALL)
        if match is None:
            raise TimmscopeError(f"--set {pair!r} is not of the form method.param=value")
        method, name, value = match.groups()
        settings.setdefault(METHODS[method].key, {})[name] = value
    return settings


# -- files --------------------------------------------------------------------------------------


def save(
    folder: Path,
    name: str,
    kinds: Sequence[str],
    look: Look,
    comparison: Comparison,
    report: dict[str, Any],
) -> None:
    """Write each result under `folder`, entering the paths into `report`.

    Raises:
        TimmscopeError: the folder cannot be written.
    """
    with _writing(folder):
        for key, attribution in comparison.results.items():
            files = report["results"][key]["files"]
            for kind, write in (("png", save_png), ("npz", save_npz)):
                if kind in kinds:
                    path = folder / f"{name}.{key}.{kind}"
                    write(path, look, attribution)
                    files[kind] = str(path)
        if "json" in kinds:
            path = folder / f"{name}.json"
            for key in comparison.results:
                report["results"][key]["files"]["json"] = str(path)
            path.write_text(_to_json(report) + "\n", encoding="utf-8")


def _to_json(answer: object) -> str:
    """JSON in ASCII: it can be written whatever the encoding of stdout or of a file's name."""
    return json.dumps(answer, allow_nan=False, indent=2)


def _prepare(folder: Path | None) -> None:
    """Find out before the work whether its files can be written."""
    if folder is not None:
        with _writing(folder):
            tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A block that writes into `folder`, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise TimmscopeError(f"cannot write to {str(folder)!r}: {error.strerror}") from None


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


# -- methods, models, layers --------------------------------------------------------------------


def features(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``features``: what a layer's channels, or a transformer's heads, respond to."""
    _prepare(arguments.output_dir)
    handle = load_model(arguments.model, weights=arguments.weights, device=arguments.device)
    explainer, picture = Explainer(handle), open_picture(arguments.image)
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
        report = {
            "model": handle.name,
            "layer": found.layer,
            "grid": found.maps.shape[1:],
            "channels": found.channels.tolist(),
            "statistics": {
                "mean": finite(found.mean),
                "std": finite(found.std),
                "sparsity": found.sparsity,
                "active_channels": found.active,
                "channels": found.total,
            },
        }
    report["files"] = {}
    if arguments.output_dir is not None:
        stem = Path(arguments.image).stem
        path = (
            arguments.output_dir
            / f"{stem}.{'attention' if arguments.attention else 'features'}.npz"
        )
        with _writing(arguments.output_dir):
            np.savez_compressed(path, **dict(zip(names, maps.numpy(), strict=True)))
        report["files"]["npz"] = str(path)
    return report, 0


def methods(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``methods``: the registry, with the rows each takes for a picture on the default model."""
    handle = load_model()
    return {
        key: {
            "label": cls.label,
            "family": cls.family,
            "about": cls.about,
            "needs": sorted(cls.needs),
            "laws": sorted(cls.laws),
            "cost": _work(cls(), handle),
            "params": cls.schema_of_fields(),
            "paper": cls.paper,
        }
        for key, cls in METHODS.items()
    }, 0


def _work(method: Method, handle: ModelHandle) -> dict[str, Any]:
    cost = method.work(handle, handle.resolve_layer(method.layer_needs(), None))
    return {"forward": cost.forward, "backward": cost.backward, "pace": cost.pace}


def models(arguments: argparse.Namespace) -> tuple[Mapping[str, Any], int]:
    """``models``: what timm knows."""
    return list_models(arguments.pattern), 0


def layers(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``layers``: where a model can be looked into."""
    handle = load_model(arguments.model, weights=arguments.weights, device=arguments.device)
    return {
        "model": handle.name,
        "default": handle.default_layer,
        "stages": [layer.name for layer in handle.stages()],
        "layers": {name: layer_facts(layer) for name, layer in handle.layers.items()},
        "attention": {
            a.name: {
                "heads": a.heads,
                "tokens": a.tokens,
                "usable": not a.reason,
                "reason": a.reason,
            }
            for a in handle.attention_layers.values()
        },
    }, 0


def layer_facts(layer: Layer) -> dict[str, Any]:
    """One layer as JSON."""
    layout = layer.layout
    facts: dict[str, Any] = {"kind": layer.kind, "stage": layer.stage, "layout": None}
    if layout is not None:
        facts |= {
            "layout": layout.format,
            "grid": list(layout.grid),
            "channels": layout.channels,
            "prefix_tokens": layout.prefix,
        }
    return facts


# -- arguments ----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m core", description="See why a vision model decided.")
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
    command.set_defaults(command=explain)
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
    command.add_argument("--metrics", default="", help="deletion, insertion; comma separated")
    command.add_argument("--labels", type=Path, help="a file of class names")
    command.add_argument("--output-dir", type=Path, help="where files go; none are written without")
    command.add_argument("--save", default="png,npz,json", help="png, npz, json; comma separated")
    command.add_argument("--seed", type=int, default=0)

    command = commands.add_parser("features", parents=[model], help="a layer's feature maps")
    command.set_defaults(command=features)
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("--layer", help="by default where CAM methods look")
    command.add_argument("--top", type=int, default=16, help="how many channels")
    command.add_argument("--by", choices=["activation", "variance"], default="activation")
    command.add_argument("--attention", action="store_true", help="attention heads instead")
    command.add_argument("--query", default="auto", help="who looks: class, mean, a patch's number")
    command.add_argument("--output-dir", type=Path, help="where the maps go, as NPZ")

    command = commands.add_parser("methods", help="every method with its parameters")
    command.set_defaults(command=methods)

    command = commands.add_parser("models", help="every model timm knows")
    command.set_defaults(command=models)
    command.add_argument("pattern", nargs="?", default="", help="a part of the name, or a pattern")

    command = commands.add_parser("layers", parents=[model], help="a model's layers")
    command.set_defaults(command=layers)
    return parser

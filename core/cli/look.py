"""The commands that list things, and ``features``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.cli.shared import made, parse_settings, prepare, writing
from core.errors import FAULTS, TimmscopeError, UnknownNameError
from core.explainer import Explainer
from core.export import finite
from core.image import open_picture
from core.methods.base import METHODS, Method
from core.metrics.base import METRICS
from core.models.catalogue import list_models
from core.models.handle import ModelHandle
from core.models.load import load_model
from core.types import Layer, Score
from core.verdict import finding


def sanity(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``sanity``: whether methods depend on a model's weights, and on the class asked about."""
    settings = parse_settings(arguments.set)
    asked = made(METHODS, arguments.methods, settings)
    if settings:
        raise TimmscopeError(f"--set names {', '.join(settings)}, which is not asked for")
    if not asked:
        raise TimmscopeError(f"--methods {arguments.methods!r} names none; see 'methods'")
    handle = load_model(arguments.model, weights=arguments.weights, device=arguments.device)
    explainer, results, errors = Explainer(handle), {}, {}
    for method in asked:
        try:
            scores = explainer.sanity(method, layer=arguments.layer, seed=arguments.seed)
        except UnknownNameError:
            raise
        except FAULTS as error:
            errors[method.key] = str(error).partition("\n")[0]
        else:
            results[method.key] = {key: _sane(key, score) for key, score in scores.items()}
    report = {"model": handle.name, "results": results, "errors": errors}
    return report, 0 if results else 1


def _sane(key: str, score: Score) -> dict[str, Any]:
    """What one metric of sanity says of a method on a model."""
    found = finding(key, float(score.value.mean()), {})
    facts: dict[str, Any] = {"value": found.value, "tone": found.tone, "words": found.words}
    facts["pictures"] = [round(v, 4) for v in score.value.tolist()]
    if score.curve_y is not None:
        facts["curve"] = [round(v, 4) for v in score.curve_y.mean(0).tolist()]
    return facts


def features(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``features``: what a layer's channels, or a transformer's heads, respond to."""
    prepare(arguments.output_dir)
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
        with writing(arguments.output_dir):
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


def metrics(_: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """``metrics``: the registry."""
    return {
        key: {
            "label": cls.label,
            "about": cls.about,
            "higher_is_better": cls.higher_is_better,
            "range": [finite(end) for end in cls.range],
            "needs": sorted(cls.needs),
            "caveat": cls.caveat,
            "params": cls.schema_of_fields(),
            "paper": cls.paper,
        }
        for key, cls in METRICS.items()
    }, 0


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

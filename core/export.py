"""Results as files and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.inputs.batch import InputBatch
from core.models.handle import ModelHandle
from core.tasks.query import Query
from core.types import Attribution, Cost, Prediction, finite
from core.views.colour import overlay
from core.views.display import display_limits, drawn

_REQUEST = "request"
"""The name under which a file says which request it answers."""


def context_facts(model: ModelHandle, query: Query, prediction: Prediction) -> dict[str, Any]:
    """The model, the picture and the question as JSON: enough to ask it again."""
    assert query.target is not None
    return {
        "model": model.name,
        "weights": model.source,
        "fingerprint": model.fingerprint(),
        "device": str(model.device),
        "preprocessing": model.preprocessing.to_dict(),
        **prediction_facts(prediction),
        "target": query.target.describe(prediction),
        "target_key": query.target.key,
        "picture_digest": query.batch.digest,
        "crop": query.batch.geometries[0].to_dict(),
        "seed": query.seed,
        "versions": {name: version(name) for name in ("torch", "timm", "numpy", "pillow")},
    }


def prediction_facts(prediction: Prediction) -> dict[str, Any]:
    """What the model says of one picture, as JSON.

    Of a classifier the five most likely classes; of a regression its numbers in order, and of a
    model without classes its strongest features, as `outputs` with a value each.
    """
    top = prediction.top(5)
    facts: dict[str, Any] = {"activation": prediction.activation}
    if not prediction.bounded:
        unit = {"unit": prediction.unit} if prediction.unit else {}
        facts["outputs"] = [
            {prediction.kind: i, "label": name, "value": finite(value), **unit}
            for i, name, value in top
        ]
        return facts
    index, label, confidence = top[0]
    return facts | {
        "predicted_class": index,
        "predicted_label": label,
        "confidence": finite(confidence),
        "top5": [{"class": i, "label": name, "probability": finite(p)} for i, name, p in top],
    }


def result_facts(attribution: Attribution) -> dict[str, Any]:
    """An attribution as JSON; the map itself is in the files.

    Of a map that was stopped, `partial` counts the samples taken.
    """
    facts: dict[str, Any] = {
        "files": {},
        "score": finite(float(attribution.score[0])),
        "layer": attribution.layer,
        "params": dict(attribution.params),
        "cost": cost_facts(attribution.cost),
    }
    if attribution.partial is not None:
        facts["partial"] = asdict(attribution.partial)
    return facts | {name: finite(value) for name, value in attribution.facts().items()}


def cost_facts(cost: Cost) -> dict[str, Any]:
    """A cost as JSON."""
    return {
        "forward": cost.forward,
        "backward": cost.backward,
        "seconds": round(cost.seconds, 4),
        "peak_bytes": cost.peak_bytes,
    }


def save_png(
    path: Path,
    batch: InputBatch,
    attribution: Attribution,
    colormap: str = "auto",
    alpha: float = 0.6,
    fade: bool = False,
    request: str = "",
    smooth: bool = True,
) -> None:
    """Write the map over its picture; see `core.views.colour.overlay`, and `request_of`.

    A grainy map is drawn smoothed unless `smooth` is False; see `core.views.display`.
    """
    values = drawn(map_on_input(batch, attribution), smooth)
    span = colour_range(attribution, smooth=smooth)
    picture, geometry = batch.pictures[0].image, batch.geometries[0]
    facts = PngInfo()
    if request:
        facts.add_text(_REQUEST, request)
    png = overlay(picture, values, geometry, colormap, alpha, fade, limits=span)
    png.save(path, "PNG", pnginfo=facts)


def save_npz(path: Path, batch: InputBatch, attribution: Attribution, request: str = "") -> None:
    """Write the raw map.

    `values` (H, W) float32 are signed and never normalised, in model-input pixels, a layer's map
    upsampled bilinearly; `native` is the map on its own grid; `crop` is (left, top, right, bottom)
    of what the model saw, in picture pixels; `picture` and `input` are (height, width).
    What else the method found, such as `segments`, stands under its own name; of a map that was
    stopped, `samples` are those taken and those that were to be taken. For `request` see
    `request_of`.
    """
    geometry = batch.geometries[0]
    extras: dict[str, Any] = {n: extra[0].numpy() for n, extra in attribution.extras.items()}
    if attribution.partial is not None:
        extras["samples"] = np.array([attribution.partial.done, attribution.partial.of])
    np.savez_compressed(
        path,
        values=map_on_input(batch, attribution),
        native=attribution.values[0].numpy(),
        crop=np.array(geometry.box, dtype=np.float64),
        picture=np.array(geometry.picture),
        input=np.array(geometry.input),
        score=attribution.score[0].numpy(),
        **extras,
    )
    if request:
        sign_npz(path, request)


def sign_npz(path: Path, request: str) -> None:
    """Enter the request that an NPZ file answers, as the comment of the archive."""
    with ZipFile(path, "a") as archive:
        archive.comment = f"{_REQUEST} {request}".encode()


def request_of(path: Path) -> str | None:
    """The request that a PNG, NPZ or JSON file was written for; None if it says none.

    A request is any text that identifies what was asked, so that a file is replaced only by an
    answer to the same question.
    """
    try:
        match path.suffix.lower():
            case ".png":
                with Image.open(path, formats=["PNG"]) as image:
                    found = image.info.get(_REQUEST)
            case ".npz":
                with ZipFile(path) as archive:
                    found = archive.comment.decode().removeprefix(f"{_REQUEST} ")
            case _:
                found = json.loads(path.read_text(encoding="utf-8"))[_REQUEST]
    except (OSError, ValueError, LookupError, TypeError, SyntaxError, BadZipFile):
        return None
    return found if isinstance(found, str) else None


def colour_range(*attributions: Attribution, smooth: bool = True) -> tuple[float, float]:
    """The range of colours for the first image's map, or for several maps together.

    `smooth` says whether grainy maps are drawn smoothed; see `core.views.display.display_limits`.
    """
    maps = (attribution.values[0].numpy() for attribution in attributions)
    return display_limits(*maps, smooth=smooth)


def map_on_input(batch: InputBatch, attribution: Attribution) -> NDArray[np.float32]:
    """The first image's map (H, W) in model-input pixels."""
    values: NDArray[np.float32] = attribution.upsampled((batch.x.shape[2], batch.x.shape[3]))[
        0
    ].numpy()
    return values

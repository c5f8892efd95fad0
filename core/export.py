"""Results as files and as JSON."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.inputs.batch import InputBatch
from core.methods.base import METHODS
from core.models.handle import ModelHandle
from core.registry import changed_parameters
from core.tasks.base import Combination, Target
from core.tasks.query import Query
from core.tasks.region import Region
from core.tasks.segmentation import SegmentationPrediction, regions_of
from core.types import Attribution, Cost, Prediction, finite
from core.views.colour import ALPHA, overlay
from core.views.display import cut_of, display_limits, drawn, smoothing_text
from core.views.figure import ColourScale, FigureText, figure_png, figure_svg

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
        **region_facts(query.target, prediction),
        "picture_digest": query.batch.digest,
        "crop": query.batch.geometries[0].to_dict(),
        "seed": query.seed,
        "versions": {name: version(name) for name in ("torch", "timm", "numpy", "pillow")},
    }


def region_facts(target: Target, prediction: Prediction) -> dict[str, Any]:
    """The classes and regions of one picture that are explained, as JSON; empty of a classifier.

    `share` is that of the picture, as the model sees it.
    """
    found = []
    for one in regions_of(target):
        assert isinstance(one.region, Region)
        assert one.index is not None
        found.append(
            {
                "class": one.index,
                "label": prediction.label(one.index),
                "where": one.region.text,
                "share": finite(float(one.region.masks[0].float().mean())),
            }
        )
    return {"regions": found} if found else {}


def _segmentation_facts(prediction: SegmentationPrediction) -> dict[str, Any]:
    """What a segmenter says of one picture: the largest classes, and how uncertain it is."""
    return {
        "activation": prediction.activation,
        "top5": [{"class": i, "label": n, "share": finite(p)} for i, n, p in prediction.top(5)],
        "uncertainty": {
            "entropy": finite(float(prediction.entropy[0].mean())),
            "margin": finite(float(prediction.margin[0].mean())),
        },
    }


def prediction_facts(prediction: Prediction) -> dict[str, Any]:
    """What the model says of one picture, as JSON.

    Of a classifier the five most likely classes; of a regression its numbers in order, and of a
    model without classes its strongest features, as `outputs` with a value each; of a segmenter the
    five largest classes by their share of the picture, and its uncertainty.
    """
    if isinstance(prediction, SegmentationPrediction):
        return _segmentation_facts(prediction)
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


def figure_text(
    model: ModelHandle, query: Query, prediction: Prediction, attribution: Attribution
) -> FigureText:
    """What stands around a saved map: the question, how the map was made, what its colours mean."""
    assert query.target is not None
    method, target = METHODS.make(attribution.method, attribution.params), query.target
    told = target.describe(prediction)
    made = f"{method.label}{changed_parameters(method)}"
    parts = [
        f"{made} of layer {attribution.layer}" if attribution.layer else made,
        f"model {model.name}",
        f"picture {query.batch.pictures[0].name}",
        f"{prediction.unit or target.unit} {float(attribution.score[0]):.3g}",
        smoothing_text(map_on_input(query.batch, attribution)),
    ]
    if attribution.partial is not None:
        counted = attribution.partial
        parts.insert(1, f"{counted.done:,} of {counted.of:,} {counted.unit}")
    ends = contrast_ends(target, prediction) or (f"against {told}", f"for {told}")
    unit = target.unit if "completeness_error" in attribution.extras else ""
    return FigureText(f"Why {told}?", " · ".join(filter(None, parts)), unit, ends)


def contrast_ends(target: Target, prediction: Prediction) -> tuple[str, str] | None:
    """What the low and the high end of a contrast's colours speak for: the classes compared."""
    if not isinstance(target, Combination) or len(target.terms) != 2:
        return None
    first, second = (one.describe(prediction) for _, one in target.terms)
    return second, first


def file_stem(*parts: object) -> str:
    """The name of a file, without its ending, that says what it is; safe on every system.

    Args:
        parts: such as the picture's name, the class, the method and the layer; empty ones are
            left out, and each is shortened to 40 characters.

    >>> file_stem("Coffee (2)", "espresso", "gradcam", "bn2")
    'coffee-2-espresso-gradcam-bn2'
    >>> file_stem("../CON", None), file_stem("…")
    ('map-con', 'map')
    """
    slugs = [_slug(str(part))[:40].strip("-._") for part in parts if part not in (None, "")]
    stem = "-".join(filter(None, slugs)) or "map"
    return f"map-{stem}" if stem.split(".")[0].upper() in _RESERVED else stem


_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10)),
}
"""Names that Windows keeps for devices."""


def _slug(text: str) -> str:
    """The text in lower-case ASCII letters and digits, with hyphens between words."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", plain).strip("-._")


@dataclass(frozen=True, slots=True)
class Style:
    """How a saved map is drawn; see `core.views.colour.overlay` and `core.views.display`.

    Attributes:
        colormap: name of a colormap, or "auto".
        alpha: opacity of the map, from 0 to 1.
        fade: whether weak values are transparent.
        smooth: whether a grainy map is drawn smoothed.
        strongest: per cent of the map that is shown, the strongest values.
    """

    colormap: str = "auto"
    alpha: float = ALPHA
    fade: bool = False
    smooth: bool = True
    strongest: float = 100.0


DEFAULT_STYLE = Style()


def overlaid(
    batch: InputBatch, attribution: Attribution, style: Style
) -> tuple[Image.Image, ColourScale]:
    """The first image's map over its picture, and the colours that it has."""
    values = drawn(map_on_input(batch, attribution), style.smooth)
    span = colour_range(attribution, smooth=style.smooth)
    picture, geometry = batch.pictures[0].image, batch.geometries[0]
    colormap, alpha, fade = style.colormap, style.alpha, style.fade
    cut = cut_of(values, style.strongest)
    image = overlay(picture, values, geometry, colormap, alpha, fade, limits=span, cut=cut)
    return image, ColourScale(values, span, colormap)


def save_png(
    path: Path,
    batch: InputBatch,
    attribution: Attribution,
    style: Style = DEFAULT_STYLE,
    text: FigureText | None = None,
    request: str = "",
) -> None:
    """Write the map over its picture as a PNG.

    Args:
        path: the file.
        batch: the picture.
        attribution: the map.
        style: how it is drawn.
        text: what stands around it; then the file is a figure at twice the size that it is meant to
            be shown at, with a colour scale. None for the picture alone, in its own size.
        request: see `request_of`.
    """
    image, scale = overlaid(batch, attribution, style)
    facts = PngInfo()
    if request:
        facts.add_text(_REQUEST, request)
    if text is not None:
        image = figure_png(image, scale, text)
        facts.add_itxt("Title", text.title)
        facts.add_itxt("Description", text.caption)
    image.save(path, "PNG", pnginfo=facts)


def save_svg(
    path: Path,
    batch: InputBatch,
    attribution: Attribution,
    style: Style,
    text: FigureText,
    request: str = "",
) -> None:
    """Write the map as an SVG figure with title, colour scale and caption; see `save_png`."""
    image, scale = overlaid(batch, attribution, style)
    path.write_text(figure_svg(image, scale, text, request), encoding="utf-8")


def save_npz(
    path: Path,
    batch: InputBatch,
    attribution: Attribution,
    facts: Mapping[str, Any] = MappingProxyType({}),
    request: str = "",
) -> None:
    """Write the raw map.

    `values` (H, W) float32 are signed and never normalised, in model-input pixels, a layer's map
    upsampled bilinearly; `native` is the map on its own grid; `crop` is (left, top, right, bottom)
    of what the model saw, in picture pixels; `picture` and `input` are (height, width).
    What else the method found, such as `segments`, stands under its own name; of a map that was
    stopped, `samples` are those taken and those that were to be taken. `metadata` is JSON:
    method, parameters, layer and target key, and `facts`, such as those of `context_facts`. For
    `request` see `request_of`.
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
        metadata=np.array(json.dumps(_metadata(batch, attribution, facts), ensure_ascii=False)),
        **extras,
    )
    if request:
        sign_npz(path, request)


def _metadata(
    batch: InputBatch, attribution: Attribution, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What an NPZ file says of its map."""
    told = {name: value for name, value in result_facts(attribution).items() if name != "files"}
    return {
        "picture": batch.pictures[0].name,
        "method": attribution.method,
        "target_key": attribution.target,
        "crop": batch.geometries[0].to_dict(),
        **told,
        **facts,
    }


def sign_npz(path: Path, request: str) -> None:
    """Enter the request that an NPZ file answers, as the comment of the archive."""
    with ZipFile(path, "a") as archive:
        archive.comment = f"{_REQUEST} {request}".encode()


def request_of(path: Path) -> str | None:
    """The request that a PNG, SVG, NPZ or JSON file was written for; None if it says none.

    A request is any text that identifies what was asked, so that a file is replaced only by an
    answer to the same question.
    """
    try:
        match path.suffix.lower():
            case ".png":
                with Image.open(path, formats=["PNG"]) as image:
                    found = image.info.get(_REQUEST)
            case ".svg":
                head = path.read_text(encoding="utf-8", errors="replace")[:4000]
                signed = re.search(r'<svg[^>]* data-request="([^"]*)"', head)
                found = html.unescape(signed[1]) if signed else None
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

"""One step of a removal curve: what the model was shown, and what it predicted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import PIL.Image
from torch import Tensor

from core import METHODS, METRICS
from core.inputs.batch import OnProgress
from core.methods.configuration import label_of
from core.metrics.faithfulness import RemovalCurve
from core.registry import key_of
from core.types import CurveStep, Prediction
from core.views.charts import prediction_panel
from core.views.maps import picture_panel
from core.views.panels import Panel, empty_panel
from dashboard.actions.explain import ExplainRequest, attribution_of, remaining_cost
from dashboard.actions.question import Choices, Question, Settings, params_of, resolve
from dashboard.state import Service

CURVES = {key: cls for key, cls in METRICS.items() if issubclass(cls, RemovalCurve)}
"""Metrics whose curves can be inspected step by step."""


@dataclass(frozen=True, slots=True)
class CurveStepRequest:
    """One step of a curve.

    Attributes:
        question: picture, model and class.
        curve: "method metric"; see `curve_choices`.
        share: of the pixels that were removed or restored, in per cent.
        settings: parameters a person set.
        layer: the layer of CAM methods; empty for the model's own choice.
    """

    question: Question
    curve: str | None
    share: float
    settings: Settings
    layer: str | None


@dataclass(frozen=True)
class CurveStepResult:
    """One step of a curve.

    Attributes:
        panels: the picture at this step, and its five most likely classes.
    """

    panels: list[Panel]


def curve_choices(measured: Iterable[tuple[str, str]]) -> Choices:
    """The curves among what was measured, pairs of method and metric, each as "method metric"."""
    return [
        (f"{label_of(method)}: {CURVES[metric].label.lower()}", f"{method} {metric}")
        for method, metric in measured
        if metric in CURVES
    ]


def curve_step(
    service: Service, request: CurveStepRequest, on_progress: OnProgress | None = None
) -> CurveStepResult:
    """The picture when a share of its pixels was removed or restored, and its prediction.

    Raises:
        TimmscopeError: the curve has no such step.
    """
    method, _, metric = str(request.curve or "").rpartition(" ")
    if metric not in CURVES or key_of(method) not in METHODS:
        message = "Measure deletion or insertion, then choose a curve."
        return CurveStepResult([empty_panel(message)])
    resolved = resolve(service, request.question, on_progress)
    explanation = ExplainRequest(request.question, method, request.layer, request.settings)
    removal = METRICS.make(metric, params_of(request.settings, metric, CURVES[metric]))
    assert isinstance(removal, RemovalCurve)
    with service.slow.turn(remaining_cost(resolved, explanation), on_progress) as on_step:
        found = attribution_of(resolved, explanation, on_step)
    step = round(min(max(request.share, 0), 100) / 100 * removal.steps)
    shown = resolved.explainer.curve_step(resolved.batch, found, removal, step=step)
    return CurveStepResult([_picture(shown, removal, step), _prediction(shown.prediction)])


def _picture(shown: CurveStep, removal: RemovalCurve, step: int) -> Panel:
    return picture_panel(
        _image(shown.pixels[0]),
        title=f"{shown.fraction:.0%} {'restored' if removal.restores else 'removed'}",
        caption=f"Step {step:,} of {removal.steps:,}, most relevant pixels first. "
        f"Removed pixels are replaced by: {removal.baseline}.",
    )


def _image(pixels: Tensor) -> PIL.Image.Image:
    """Pixel values (C, H, W) from 0 to 1 as a picture."""
    bytes_ = (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return PIL.Image.fromarray(bytes_ if bytes_.shape[2] == 3 else bytes_[..., 0])


def _prediction(prediction: Prediction) -> Panel:
    return prediction_panel(prediction, title="Prediction at this step", highlight=None)

"""One step of a removal curve: what the model was shown, and what it said."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import PIL.Image
from torch import Tensor

from core import METHODS, METRICS
from core.errors import CancelledError, TimmscopeError
from core.inputs.batch import OnProgress
from core.metrics.faithfulness import Removal
from core.types import Prediction
from core.views.charts import bars_panel
from core.views.maps import picture_panel
from core.views.panels import Panel, empty_panel
from dashboard.actions.explain import explained
from dashboard.actions.question import Choices, Settings, ask, trouble
from dashboard.controls import params_of
from dashboard.state import Question, Service

CURVES = {key: cls for key, cls in METRICS.items() if issubclass(cls, Removal)}
"""Metrics whose curves can be looked into step by step."""


def curve_choices(measured: Iterable[tuple[str, str]]) -> Choices:
    """The curves among what was measured, pairs of method and metric, each as "method metric"."""
    return [
        (f"{METHODS[method].label}: {CURVES[metric].label.lower()}", f"{method} {metric}")
        for method, metric in measured
        if metric in CURVES
    ]


def curve_step(
    service: Service,
    question: Question,
    curve: str | None,
    share: float,
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> list[Panel]:
    """What the model was shown when a share of the pixels had had their turn, and its top five.

    Args:
        service: answers.
        question: what the page asks.
        curve: "method metric", see `curve_choices`.
        share: of the pixels, in per cent.
        settings: parameters a person set.
        layer: where CAM methods look.
        on_progress: told of rows, where the map is no longer kept.
    """
    method, _, metric = str(curve or "").partition(" ")
    if metric not in CURVES or method not in METHODS:
        return [empty_panel("Measure deletion, insertion or the like, then choose a curve.")]
    try:
        asked = ask(service, question, on_progress)
        answer = explained(asked, method, settings, layer, on_progress)
        instance = METRICS.make(metric, params_of(settings, metric, CURVES[metric]))
        assert isinstance(instance, Removal)
        step = round(min(max(share, 0), 100) / 100 * instance.steps)
        found = asked.explainer.curve_step(asked.batch, answer, instance, step=step)
    except CancelledError:
        raise
    except TimmscopeError as error:
        return [trouble("Not shown", question, error)]
    done = "restored" if instance.restores else "removed"
    return [
        picture_panel(
            _image(found.pixels[0]),
            title=f"{found.fraction:.0%} {done}",
            caption=f"Step {step} of {instance.steps}, the most relevant pixels first. "
            f"In place of what is removed: {instance.baseline}.",
        ),
        _bars(found.prediction),
    ]


def _image(pixels: Tensor) -> PIL.Image.Image:
    """Pixel values (C, H, W) from 0 to 1 as a picture."""
    bytes_ = (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return PIL.Image.fromarray(bytes_ if bytes_.shape[2] == 3 else bytes_[..., 0])


def _bars(prediction: Prediction) -> Panel:
    rows = [(label, value) for _, label, value in prediction.top(5)]
    return bars_panel(
        rows,
        title="What the model says of it",
        caption="The five likeliest classes at this step",
        highlight=None,
        shares=not prediction.features,
    )

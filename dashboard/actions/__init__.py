"""What the page can do: plain functions from what a person asked to what the page shows.

They know no widgets, so they can be called, tested and offered as an API without a browser. What
went wrong comes back as a card that says so; nothing a person can cause raises, but for
`CancelledError` where they no longer want the answer.
"""

from __future__ import annotations

from dashboard.actions.compare import Compared, Recommended, compare, recommend
from dashboard.actions.curve_steps import curve_choices, curve_step
from dashboard.actions.evidence import Evidence, canvas, drawn
from dashboard.actions.explain import Explained, explain
from dashboard.actions.features import Featured, attention, features
from dashboard.actions.metrics import MOST_RANDOM_MAPS, Measured, measure, metric_choices
from dashboard.actions.model import (
    MethodFacts,
    ModelFacts,
    Seen,
    describe_method,
    describe_model,
    method_choices,
    predict,
    takes,
)
from dashboard.actions.question import Asked, Choices, Settings, ask
from dashboard.actions.save import download
from dashboard.actions.verdict import assess

__all__ = [
    "MOST_RANDOM_MAPS",
    "Asked",
    "Choices",
    "Compared",
    "Evidence",
    "Explained",
    "Featured",
    "Measured",
    "MethodFacts",
    "ModelFacts",
    "Recommended",
    "Seen",
    "Settings",
    "ask",
    "assess",
    "attention",
    "canvas",
    "compare",
    "curve_choices",
    "curve_step",
    "describe_method",
    "describe_model",
    "download",
    "drawn",
    "explain",
    "features",
    "measure",
    "method_choices",
    "metric_choices",
    "predict",
    "recommend",
    "takes",
]

"""Timmscope's engine: which pixels made a vision model decide.

>>> from core import explain
>>> explain("assets/samples/chelsea.jpg", method="gradcam").values.shape
torch.Size([1, 7, 7])
"""

from core.errors import TimmscopeError
from core.explainer import Explainer, compare, explain
from core.methods.base import METHODS
from core.metrics.base import METRICS
from core.models.handle import ModelHandle
from core.models.load import load_model
from core.tasks.query import Query
from core.types import Attribution, Comparison, Cost, Prediction, Score

__all__ = [
    "METHODS",
    "METRICS",
    "Attribution",
    "Comparison",
    "Cost",
    "Explainer",
    "ModelHandle",
    "Prediction",
    "Query",
    "Score",
    "TimmscopeError",
    "compare",
    "explain",
    "load_model",
]

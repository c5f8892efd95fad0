"""Timmscope's engine: which pixels made a vision model decide.

>>> from core import explain, sample_picture
>>> explain(sample_picture("chelsea"), method="gradcam").values.shape
torch.Size([1, 7, 7])
"""

from core.errors import TimmscopeError
from core.explainer import (
    Explainer,
    compare,
    compare_models,
    compare_pictures,
    explain,
    explain_segmentation,
)
from core.inputs.samples import sample_picture
from core.methods.base import METHODS
from core.metrics.base import METRICS
from core.models.handle import ModelHandle
from core.models.load import load_model
from core.tasks.query import Query
from core.tasks.region import InRegion
from core.types import Attribution, Comparison, Cost, Prediction, Score

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "METRICS",
    "Attribution",
    "Comparison",
    "Cost",
    "Explainer",
    "InRegion",
    "ModelHandle",
    "Prediction",
    "Query",
    "Score",
    "TimmscopeError",
    "compare",
    "compare_models",
    "compare_pictures",
    "explain",
    "explain_segmentation",
    "load_model",
    "sample_picture",
]

"""What the page can do: plain functions ``action(service, request, on_progress) -> result``.

They know no widgets, so they can be called and tested without a browser, and are what the page's
API offers. A request is a frozen dataclass whose fields are the inputs, by name; a result holds
what the page shows. What a person can cause or cure is raised as a `TimmscopeError`, and
`CancelledError` once they no longer want the answer; the page turns both into what it shows.
"""

from __future__ import annotations

from dashboard.actions.address import read_address
from dashboard.actions.class_maps import ClassMaps, class_maps
from dashboard.actions.compare import (
    COST_HEADERS,
    MAX_MODELS,
    WHAT,
    CompareRequest,
    CompareResult,
    compare,
)
from dashboard.actions.curve_steps import (
    CurveStepRequest,
    CurveStepResult,
    curve_choices,
    curve_step,
)
from dashboard.actions.evidence import Evidence, drawing_canvas, metrics_on_evidence
from dashboard.actions.explain import ExplainRequest, ExplainResult, explain, paint
from dashboard.actions.features import FeatureRequest, FeatureResult, features
from dashboard.actions.film import FilmResult, Stop, film
from dashboard.actions.hide import HideRequest, HideResult, Mask, hide
from dashboard.actions.method_guide import MethodGuide, method_guide
from dashboard.actions.methods import (
    EstimateRequest,
    MethodFacts,
    MethodRequest,
    describe_method,
    estimate,
    method_choices,
    supports,
)
from dashboard.actions.metrics import (
    MAX_RANDOM_MAPS,
    MeasureRequest,
    MeasureResult,
    measure,
    metric_groups,
)
from dashboard.actions.model import (
    ModelOffers,
    ModelRequest,
    ModelStatus,
    OffersRequest,
    describe_model,
    knows_scenes,
    open_model,
)
from dashboard.actions.patches import PatchRequest, PatchResult, patches
from dashboard.actions.predict import PredictResult, SeenPart, no_prediction, predict
from dashboard.actions.question import (
    NO_CLASS,
    Answered,
    Answers,
    Choices,
    Question,
    ResolvedQuestion,
    Settings,
    UnusableError,
    brief,
    resolve,
)
from dashboard.actions.reasons import RANDOM, Chosen, fault_card
from dashboard.actions.recommend import (
    RANKING_HEADERS,
    RecommendRequest,
    RecommendResult,
    recommend,
)
from dashboard.actions.save import SaveRequest, save
from dashboard.actions.share import ShareRequest, share
from dashboard.actions.superpixels import SuperpixelResult, picture_parts
from dashboard.actions.variants import add_variant, parameter_choices
from dashboard.actions.verdict import VerdictRequest, VerdictResult, assess, check_quietly
from dashboard.actions.warm_up import warm_up

__all__ = [
    "COST_HEADERS",
    "MAX_MODELS",
    "MAX_RANDOM_MAPS",
    "NO_CLASS",
    "RANDOM",
    "RANKING_HEADERS",
    "WHAT",
    "Answered",
    "Answers",
    "Choices",
    "Chosen",
    "ClassMaps",
    "CompareRequest",
    "CompareResult",
    "CurveStepRequest",
    "CurveStepResult",
    "EstimateRequest",
    "Evidence",
    "ExplainRequest",
    "ExplainResult",
    "FeatureRequest",
    "FeatureResult",
    "FilmResult",
    "HideRequest",
    "HideResult",
    "Mask",
    "MeasureRequest",
    "MeasureResult",
    "MethodFacts",
    "MethodGuide",
    "MethodRequest",
    "ModelOffers",
    "ModelRequest",
    "ModelStatus",
    "OffersRequest",
    "PatchRequest",
    "PatchResult",
    "PredictResult",
    "Question",
    "RecommendRequest",
    "RecommendResult",
    "ResolvedQuestion",
    "SaveRequest",
    "SeenPart",
    "Settings",
    "ShareRequest",
    "Stop",
    "SuperpixelResult",
    "UnusableError",
    "VerdictRequest",
    "VerdictResult",
    "add_variant",
    "assess",
    "brief",
    "check_quietly",
    "class_maps",
    "compare",
    "curve_choices",
    "curve_step",
    "describe_method",
    "describe_model",
    "drawing_canvas",
    "estimate",
    "explain",
    "fault_card",
    "features",
    "film",
    "hide",
    "knows_scenes",
    "measure",
    "method_choices",
    "method_guide",
    "metric_groups",
    "metrics_on_evidence",
    "no_prediction",
    "open_model",
    "paint",
    "parameter_choices",
    "patches",
    "picture_parts",
    "predict",
    "read_address",
    "recommend",
    "resolve",
    "save",
    "share",
    "supports",
    "warm_up",
]

"""Whatever a model raises, every action of the page tells it in one sentence."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import typing
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch

from core import load_model
from core.errors import MemoryExhaustedError, ModelFailure, TimmscopeError
from core.inputs.preprocessing import Preprocessing
from dashboard import actions
from dashboard.actions import Question
from dashboard.actions.explain import ExplainRequest
from dashboard.state import Service
from dashboard.tabs.binding import inputs_of
from dashboard.tabs.handlers import handler
from tests.conftest import SAMPLES
from tests.failing import KINDS, Moody

CAT = str(SAMPLES / "chelsea.jpg")
QUESTION = Question(CAT, "test_resnet", "random", None, None, "logit")
EXPLANATION = ExplainRequest(QUESTION, "gradcam", None, {})


def requests() -> dict[str, Any]:
    """A request for every action that takes one and uses a model."""
    model = {"model": QUESTION.model, "weights": QUESTION.weights}
    methods = {"question": QUESTION, "methods": ["gradcam", "saliency"], "settings": {}}
    layer: dict[str, Any] = {"layer": None}
    return {
        "assess": actions.VerdictRequest(EXPLANATION),
        "check_quietly": actions.VerdictRequest(EXPLANATION),
        "class_maps": EXPLANATION,
        "compare": actions.CompareRequest(**methods, **layer),
        "curve_step": actions.CurveStepRequest(QUESTION, "gradcam deletion", 25, {}, None),
        "describe_method": actions.MethodRequest(**model, method="gradcam"),
        "describe_model": actions.OffersRequest(**model),
        "drawing_canvas": QUESTION,
        "estimate": actions.EstimateRequest(**model, method="fullgrad", layer=None, settings={}),
        "explain": EXPLANATION,
        "film": EXPLANATION,
        "hide": actions.HideRequest(QUESTION, {"width": 2, "height": 2, "bits": "8A=="}),
        "features": actions.FeatureRequest(QUESTION, None, "activation", 4),
        "measure": actions.MeasureRequest(**methods, **layer, metrics=["deletion"]),
        "method_guide": actions.ModelRequest(**model),
        "open_model": actions.ModelRequest(**model),
        "paint": EXPLANATION,
        "patches": actions.PatchRequest(QUESTION),
        "picture_parts": QUESTION,
        "predict": QUESTION,
        "recommend": actions.RecommendRequest(**methods, **layer),
        "save": actions.SaveRequest(EXPLANATION, "json"),
        "share": actions.ShareRequest(CAT),
    }


REQUESTS = requests()
WITHOUT_BACKWARD = (
    "drawing_canvas",
    "features",
    "hide",
    "open_model",
    "patches",
    "picture_parts",
    "predict",
    "share",
)
"""Actions that need no backward pass."""
PER_METHOD = ("compare", "measure", "recommend")
"""Actions that go on with the other methods, and tell of each that failed."""


def all_actions() -> set[str]:
    """The names of the functions that the page's handlers run."""
    found = {name: getattr(actions, name) for name in actions.__all__}
    return {
        name
        for name, one in found.items()
        if inspect.isfunction(one)
        and next(iter(inspect.signature(one).parameters), "") == "service"
    }


def test_every_action_is_asked_here() -> None:
    assert set(REQUESTS) == all_actions() - {"resolve", "supports", "warm_up"}


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Moody:
    """The model that every service of the test opens, whatever its name."""
    model = Moody(timm.create_model("test_resnet", num_classes=7)).eval()
    size = Preprocessing.from_model(model.inner)
    monkeypatch.setattr(
        "dashboard.state.models.load_model",
        lambda *_, **__: load_model(model, preprocessing=size, num_classes=7),
    )
    return model


def told(service: Service, name: str) -> Any:
    """What the handler of an action shows: its result, or the error as the page gets it."""
    action, request = getattr(actions, name), REQUESTS[name]
    constants = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    flat = constants | {
        f.name: getattr(one, f.name)
        for one in constants.values()
        if dataclasses.is_dataclass(one) and typing.get_type_hints(type(request))
        for f in dataclasses.fields(one)
    }
    inputs = inputs_of(type(request), **flat)
    run = handler(service, "", action, inputs, lambda found: found, lambda _, error: error)
    found = run(SimpleNamespace(session_hash="a"), None)
    return list(found)[-1] if inspect.isgenerator(found) else found


def prepared(faulty: Moody, stage: str, kind: str) -> Service:
    """A service whose model fails from a stage on."""
    service = Service()
    if stage != "loading":
        service.models.of(QUESTION)
    if stage in ("explaining", "backward"):
        actions.predict(service, QUESTION)
    error = KINDS[kind]()
    if stage == "backward":
        faulty.backward_error = error
    else:
        faulty.forward_error = error
    return service


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged as a fault of our own."""
    return [one for one in caplog.records if one.exc_info and one.levelno >= logging.WARNING]


STAGES = ("loading", "predicting", "explaining", "backward")


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    ("stage", "kind"), [*((stage, "own") for stage in STAGES), ("explaining", "memory")]
)
def test_what_a_model_raises_is_one_sentence(
    faulty: Moody, caplog: pytest.LogCaptureFixture, name: str, stage: str, kind: str
) -> None:
    service = prepared(faulty, stage, kind)
    found = told(service, name)
    assert tracebacks(caplog) == []
    if isinstance(found, TimmscopeError):
        assert "\n" not in str(found)
    elif stage == "backward":
        assert name in (*PER_METHOD, *WITHOUT_BACKWARD), "nothing was raised"
    else:
        assert name in ("open_model", "share") or (name, stage) == ("estimate", "loading")


@pytest.mark.parametrize("kind", KINDS)
def test_what_reaches_a_handler_raw_is_told_as_well(
    faulty: Moody, caplog: pytest.LogCaptureFixture, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raw(service: Service, request: Any, on_progress: object = None) -> None:
        faulty(torch.zeros(1, 3, 160, 160))

    monkeypatch.setattr(actions, "predict", raw)
    faulty.forward_error = KINDS[kind]()
    found = told(Service(), "predict")
    assert isinstance(found, MemoryExhaustedError if kind == "memory" else ModelFailure)
    assert "\n" not in str(found)
    assert tracebacks(caplog) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_library_raises_while_a_model_loads_is_told_and_remembered(
    caplog: pytest.LogCaptureFixture, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def load(name: str, **_: Any) -> None:
        tries.append(name)
        raise KINDS[kind]()

    monkeypatch.setattr("dashboard.state.models.load_model", load)
    service = Service()
    for name in ("open_model", "predict", "explain", "describe_model"):
        found = told(service, name)
        assert isinstance(found, TimmscopeError)
        assert "\n" not in str(found)
    assert tracebacks(caplog) == []
    assert len(tries) == 1


def test_a_bug_of_ours_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(service: Service, request: Any, on_progress: object = None) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(actions, "predict", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        told(Service(), "predict")
    (record,) = caplog.records
    assert record.exc_info is not None

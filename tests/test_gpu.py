"""On a ZeroGPU Space what computes runs in a process that is lent the graphics processor."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from core.errors import TimmscopeError
from dashboard import actions, api, gpu, launch
from dashboard.actions.question import UnusableError
from dashboard.api import requests
from dashboard.api.handlers import checked
from dashboard.state import Service
from dashboard.tabs import compare
from dashboard.tabs.binding import Told, inputs_of
from dashboard.tabs.handlers import handler
from tests.conftest import SAMPLES
from tests.test_api import UPLOADED
from tests.test_failing_models import EXPLANATION


class Lender:
    """Stands in for the package `spaces`: what goes to the other process and back is pickled."""

    def __init__(self) -> None:
        self.marked: list[tuple[str, Any]] = []
        self.calls: list[Any] = []

    def GPU(self, duration: Any = None) -> Callable[..., Any]:  # noqa: N802  its name
        def mark(work: Callable[..., Any]) -> Callable[..., Any]:
            self.marked.append((work.__name__, duration))

            def lent(*arguments: Any) -> Any:
                self.calls.append(arguments)
                try:
                    gave = work(*pickle.loads(pickle.dumps(arguments)))
                except (ValueError, KeyError) as error:  # no more than this is told
                    raise RuntimeError(type(error).__name__) from None
                if isinstance(gave, Iterator):
                    return (pickle.loads(pickle.dumps(one)) for one in gave)
                return pickle.loads(pickle.dumps(gave))

            return lent

        return mark


@pytest.fixture
def lender(monkeypatch: pytest.MonkeyPatch) -> Lender:
    """This is a ZeroGPU Space, whose processor is the CPU."""
    found, module = Lender(), ModuleType("spaces")
    module.GPU = found.GPU  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "spaces", module)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr(Service, "on", lambda self, device: Service(device="cpu"))
    return found


def test_elsewhere_nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not gpu.is_lent()
    assert gpu.borrowing(actions.explain, Service()) is actions.explain
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", None)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert not gpu.is_lent(), "the package is not there"


def test_an_action_runs_in_a_service_of_the_other_process(lender: Lender) -> None:
    page = Service()
    explain = gpu.borrowing(actions.explain, page)
    found = explain(page, EXPLANATION, None)
    assert found.panels[0]["method"] == "Grad-CAM"
    assert lender.marked == [("single", gpu.SECONDS)]
    assert lender.calls == [(EXPLANATION,)]
    assert not page.models.is_ready("test_resnet", "random"), "it was loaded where it was lent"
    explain(page, EXPLANATION, None)
    assert len(lender.calls) == 2


def test_an_endpoint_runs_there_too(lender: Lender) -> None:
    page = Service()
    values = {"picture": UPLOADED, "model": "test_resnet", "weights": "random"}
    request = checked(requests.PredictRequest, values)
    predict = gpu.borrowing(api.ENDPOINTS[0], page)
    assert len(predict(page, request, None)["predictions"]) == 5
    assert [name for name, _ in lender.marked] == ["single"]


@pytest.mark.parametrize("name", sorted(gpu.ON_CPU))
def test_what_computes_nothing_stays_where_it_is(name: str, lender: Lender) -> None:
    named = {endpoint.__name__: endpoint for endpoint in api.ENDPOINTS}
    named["_extend"] = compare._extend
    action = named.get(name) or getattr(actions, name)
    assert gpu.borrowing(action, Service()) is action
    assert lender.marked == []


def test_what_goes_on_step_by_step_comes_step_by_step(lender: Lender) -> None:
    def count(service: Service, request: int, on_progress: Any = None) -> Iterator[int]:
        yield from range(request)
        raise TimmscopeError("that is enough")

    steps = gpu.borrowing(count, Service())(Service(), 2, None)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(TimmscopeError, match="that is enough"):
        next(steps)


def test_errors_come_back_as_sentences(lender: Lender) -> None:
    question = actions.Question("/no/such.jpg", "test_resnet", "random", None, None, "logit")
    predict = gpu.borrowing(actions.predict, Service())
    with pytest.raises(UnusableError, match="no longer on the server") as raised:
        predict(Service(), question, None)
    assert raised.value.part == "picture"

    def broken(service: Service, request: int, on_progress: Any = None) -> int:
        raise KeyError("ours")

    with pytest.raises(RuntimeError, match="KeyError"):
        gpu.borrowing(broken, Service())(Service(), 2, None)


def test_the_handler_of_the_page_borrows(lender: Lender) -> None:
    page = Service()
    question = actions.Question(
        str(SAMPLES / "coffee.jpg"), "test_resnet", "random", None, None, "logit"
    )
    fields = {name: getattr(question, name) for name in question.__slots__}
    inputs = inputs_of(actions.Question, **fields)
    run = handler(page, "", actions.predict, inputs, lambda found: found.predicted)
    assert isinstance(run(SimpleNamespace(session_hash="me"), None), int)
    assert len(lender.calls) == 1


@dataclass(frozen=True)
class _Pressed:
    """What is asked by an event of a component."""

    question: actions.Question
    event: Told


def test_what_a_component_tells_of_an_event_goes_there_as_plain_data(lender: Lender) -> None:
    def choose(service: Service, pressed: _Pressed, on_progress: Any = None) -> Any:
        return pressed.event.get("target"), type(pressed.event)

    question = actions.Question("a.jpg", "test_resnet", "random", None, None, "logit")
    fields = {name: getattr(question, name) for name in question.__slots__}
    inputs = inputs_of(_Pressed, **fields)
    assert [one.annotation for one in inputs.parameters] == [gr.EventData]
    run = handler(Service(), "", choose, inputs, lambda found: found)
    visitor = SimpleNamespace(session_hash="me")
    assert run(gr.EventData(None, {"target": 7}), visitor, None) == (7, Told)
    assert run(gr.EventData(None, "nonsense"), visitor, None) == (None, Told)
    assert len(lender.calls) == 2


def test_the_page_of_a_space_keeps_its_models_on_the_cpu(
    lender: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Service] = []

    def build(service: Service) -> Any:
        made.append(service)
        return SimpleNamespace(launch=lambda **options: None)

    monkeypatch.setattr(launch, "build", build)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    launch.main()
    assert made[0].models.device == "cpu"
    monkeypatch.delenv("SPACES_ZERO_GPU")
    launch.main()
    assert made[1].models.device is None


def test_a_service_on_a_device_has_the_same_limits() -> None:
    service = Service(2, 1000, public=True)
    other = service.on("cpu")
    assert (other.models.device, other.models.public) == ("cpu", True)
    assert other.models.cache is not service.models.cache

"""Slow work takes turns; quick work does not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from gradio import FileData

from core import Explainer, load_model, sample_picture
from core.errors import CancelledError, TimmscopeError
from core.inputs.batch import OnProgress
from dashboard import actions
from dashboard.actions import (
    CompareRequest,
    CurveStepRequest,
    MeasureRequest,
    RecommendRequest,
    SaveRequest,
    VerdictRequest,
)
from dashboard.api import endpoints, requests
from dashboard.state import Service
from dashboard.state.lane import SlowLane
from tests.conftest import SAMPLES
from tests.test_actions import about, ask_for
from tests.test_failing_models import EXPLANATION, REQUESTS

PATIENCE = 30
COFFEE = str(SAMPLES / "coffee.jpg")


def counted(context: Callable[..., Any], calls: list[object], *given: object) -> Any:
    """The same context, noted."""
    calls.append(given)
    return context(*given)


def cancelled(_done: int, _expected: int) -> None:
    raise CancelledError("This was cancelled.")


def cancelled_if_it_waits(service: Service) -> OnProgress:
    """A callback that ends work which waits for a place."""

    def look(_done: int, _expected: int) -> None:
        if service.slow.waiting:
            raise CancelledError("This was cancelled.")

    return look


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_whoever_has_waited_longest_is_next() -> None:
    lane, served, threads = SlowLane(slots=1), [], []

    def work(name: int) -> None:
        with lane.slot():
            served.append(name)

    with lane.slot():
        for name in range(4):
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            until(lambda: lane.waiting == len(threads))
        assert served == []
    for thread in threads:
        thread.join(PATIENCE)
    assert served == [0, 1, 2, 3]


def test_a_place_is_free_again_after_an_error_and_after_a_cancellation() -> None:
    lane = SlowLane(slots=1)
    with pytest.raises(ZeroDivisionError), lane.slot():
        raise ZeroDivisionError
    with lane.slot():
        with pytest.raises(CancelledError), lane.slot(cancelled):
            pytest.fail("there is no slot")
        assert lane.waiting == 0
    with lane.slot():
        pass


def test_when_too_many_wait_the_next_is_told() -> None:
    lane = SlowLane(slots=1, most_waiting=1)
    with lane.slot():
        waiting = threading.Thread(target=lambda: lane.slot().__enter__())
        waiting.start()
        until(lambda: lane.waiting == 1)
        with pytest.raises(TimmscopeError, match="Try again in a minute"), lane.slot():
            pytest.fail("there is no slot")
    waiting.join(PATIENCE)


@pytest.fixture
def full() -> Iterator[Service]:
    """A service all of whose places for slow work are taken."""
    service = Service()
    with service.slow.slot(), service.slow.slot():
        yield service


def test_an_instant_method_needs_no_place(full: Service) -> None:
    assert actions.explain(full, ask_for(about(), "gradcam")).panels


INSTANT = {"question": about(), "methods": ["gradcam", "layercam"], "settings": {}, "layer": None}
SLOW = {**INSTANT, "methods": ["gradcam", "layercam", "occlusion"]}
RISE = ask_for(about(), "rise")


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("compare", CompareRequest(**INSTANT)),
        ("compare", CompareRequest(**INSTANT, what="pictures", second=COFFEE)),
        ("save", SaveRequest(ask_for(about(), "gradcam"), "json")),
        ("curve_step", CurveStepRequest(about(), "gradcam deletion", 25, {}, None)),
    ],
    ids=["methods", "pictures", "save", "curve step"],
)
def test_nor_do_several_maps_that_take_an_instant_together(
    full: Service, name: str, asked: Any
) -> None:
    getattr(actions, name)(full, asked, cancelled_if_it_waits(full))


def test_nor_does_the_api(full: Service) -> None:
    coffee, waits = FileData(path=COFFEE), cancelled_if_it_waits(full)
    maps = requests.MapsRequest(picture=coffee, methods=["gradcam", "layercam"], values=False)
    assert not endpoints.compare(full, maps, waits)["errors"]
    sides = requests.PicturesRequest(picture=coffee, second=coffee, values=False)
    assert not endpoints.compare_pictures(full, sides, waits)["errors"]


def test_nor_does_a_slow_map_that_is_kept() -> None:
    service, slow = Service(), ask_for(about(model="test_resnet", weights="random"), "occlusion")
    actions.explain(service, slow)
    together = CompareRequest(slow.question, ["gradcam", "occlusion"], {}, None)
    with service.slow.slot(), service.slow.slot():
        waits = cancelled_if_it_waits(service)
        assert actions.explain(service, slow, waits).panels
        assert actions.save(service, SaveRequest(slow, "json"), waits)
        assert actions.compare(service, together, waits).panels


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("explain", RISE),
        ("explain", ask_for(about(), "integrated_gradients")),
        ("explain", ask_for(about(), "occlusion")),
        ("compare", CompareRequest(**SLOW)),
        ("compare", CompareRequest(**INSTANT, what="pictures", method="rise", second=COFFEE)),
        ("recommend", RecommendRequest(**INSTANT)),
        ("measure", MeasureRequest(**INSTANT, metrics=["deletion"])),
        ("assess", VerdictRequest(ask_for(about(), "gradcam"))),
        ("save", SaveRequest(RISE, "json")),
        ("curve_step", CurveStepRequest(about(), "rise deletion", 25, {}, None)),
    ],
)
def test_slow_work_waits_for_a_place(full: Service, name: str, request_: Any) -> None:
    act = getattr(actions, name)
    checks = []

    def waiting(_done: int, _expected: int) -> None:
        checks.append(full.slow.waiting)
        if full.slow.waiting:
            raise CancelledError("This was cancelled.")

    with pytest.raises(CancelledError):
        act(full, request_, waiting)
    assert checks[-1] == 1
    assert full.slow.waiting == 0


def test_who_waits_for_a_place_is_told_so(full: Service) -> None:
    told = []

    def report(_share: float, text: str) -> None:
        told.append(text)
        full.tasks.cancel("someone/explain")

    task = full.tasks.begin("someone/explain", report)
    with pytest.raises(CancelledError):
        actions.explain(full, RISE, task)
    assert told == ["Waiting for a turn"]


def test_it_is_told_when_the_last_slow_work_has_ended() -> None:
    told = threading.Event()
    lane = SlowLane(when_idle=told.set)
    with lane.slot():
        with lane.slot():
            assert lane.running == 2
        assert lane.running == 1
        assert not told.is_set(), "the other slot is still taken"
    assert told.wait(60)
    assert lane.running == 0


# -- quick work comes first ----------------------------------------------------------------------


def test_slow_work_stands_still_while_there_is_quick_work() -> None:
    lane, steps = SlowLane(), []

    def work() -> None:
        with lane.slot() as on_step:
            for step in range(3):
                on_step(step, 3)
                steps.append(step)

    slow = threading.Thread(target=work)
    with lane.held():
        with lane.held():
            slow.start()
            until(lambda: lane.running == 1)
        time.sleep(0.3)
        assert steps == [], "one of two has ended"
    slow.join(PATIENCE)
    assert steps == [0, 1, 2]


def test_slow_work_goes_on_under_a_flood_of_quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.state.lane.STANDSTILL_SECONDS", 0.2)
    lane = SlowLane()
    with lane.held(), lane.slot() as on_step:
        on_step(1, 3)
        on_step(2, 3)


def test_what_stands_still_can_be_cancelled() -> None:
    lane, polls = SlowLane(), []

    def thrice(_done: int, _expected: int) -> None:
        polls.append(time.monotonic())
        if len(polls) == 3:
            raise CancelledError("This was cancelled.")

    with lane.held(), lane.slot(thrice) as on_step:
        polls.clear()
        with pytest.raises(CancelledError):
            on_step(1, 3)
    assert lane.running == 0


@pytest.mark.parametrize("name", ["explain", "predict", "hide", "film", "features", "patches"])
def test_quick_actions_are_not_held_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service, held = Service(), []
    monkeypatch.setattr(service.slow, "held", partial(counted, service.slow.held, held))
    getattr(actions, name)(service, REQUESTS[name])
    resolving = 1  # the prediction, that of `predict` itself
    assert len(held) == resolving + (name != "predict")


@pytest.mark.parametrize("name", ["recommend", "measure", "assess"])
def test_slow_actions_queue_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service, taken = Service(), []
    monkeypatch.setattr(service.slow, "slot", partial(counted, service.slow.slot, taken))
    getattr(actions, name)(service, REQUESTS[name])
    assert len(taken) == 1


@pytest.mark.parametrize("name", ["recommend", "measure", "verdict"])
def test_slow_endpoints_queue_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service, taken = Service(), []
    monkeypatch.setattr(service.slow, "slot", partial(counted, service.slow.slot, taken))
    asked: dict[str, Any] = {"picture": FileData(path=COFFEE), "model": "test_resnet"}
    kind = {"recommend": requests.OfMethods, "measure": requests.MeasureRequest}
    methods = {} if name == "verdict" else {"methods": ["gradcam", "occlusion"]}
    request = kind.get(name, requests.OfMap)(**asked, **methods, weights="random")
    getattr(endpoints, name)(service, request)
    assert len(taken) == 1


@pytest.mark.parametrize("name", ["assess", "compare", "measure", "recommend", "rise"])
def test_slow_actions_give_way_at_every_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service, steps = Service(), []
    monkeypatch.setattr(SlowLane, "_step", lambda *step: steps.append(step))
    if name == "rise":
        actions.explain(service, replace(EXPLANATION, method="rise", stop_after=32))
    elif name == "compare":
        actions.compare(service, replace(REQUESTS[name], methods=["gradcam", "occlusion"]))
    else:
        getattr(actions, name)(service, REQUESTS[name])
    assert len(steps) > 1


@pytest.mark.parametrize("method", ["rise", "occlusion", "integrated_gradients", "ablationcam"])
def test_a_step_is_told_while_nobody_else_waits_for_the_model(method: str) -> None:
    explainer, free = Explainer(load_model("test_resnet", weights="random")), []

    def look(_done: int, _expected: int) -> None:
        with ThreadPoolExecutor(1) as other:
            taken = other.submit(explainer.model.lock.acquire, timeout=0.1).result()
            free.append(taken)
            if taken:
                other.submit(explainer.model.lock.release).result()

    params: dict[str, Any] = {"masks": 48} if method == "rise" else {}
    explainer.explain(sample_picture("coffee"), method, on_progress=look, **params)
    assert free
    assert all(free)

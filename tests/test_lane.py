"""Slow work takes turns; quick work does not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from core.errors import CancelledError, TimmscopeError
from dashboard import actions
from dashboard.actions import CompareRequest, ExplainRequest
from dashboard.state import Service
from dashboard.state.lane import SlowLane
from tests.test_actions import about, ask_for

PATIENCE = 30


def cancelled(_done: int, _expected: int) -> None:
    raise CancelledError("This was cancelled.")


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


@pytest.mark.parametrize(
    "request_",
    [
        ask_for(about(), "rise"),
        ask_for(about(), "integrated_gradients"),
        ask_for(about(), "occlusion"),
        CompareRequest(about(), ["gradcam"], {}, None, "own"),
    ],
    ids=["rise", "integrated_gradients", "occlusion", "compare"],
)
def test_slow_work_waits_for_a_place(full: Service, request_: object) -> None:
    act = actions.explain if isinstance(request_, ExplainRequest) else actions.compare
    checks = []

    def waiting(_done: int, _expected: int) -> None:
        checks.append(full.slow.waiting)
        if full.slow.waiting:
            raise CancelledError("This was cancelled.")

    with pytest.raises(CancelledError):
        act(full, request_, waiting)  # type: ignore[operator]
    assert checks[-1] == 1
    assert full.slow.waiting == 0


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

"""Running tasks: how they report progress, and how they are cancelled."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from cachetools import LRUCache

from core.errors import CancelledError
from core.inputs.batch import OnProgress

MAX_TASKS = 1000
"""How many tasks can be cancelled; older ones can no longer."""
REPORTED_FROM = 3
"""A task of fewer steps reports no progress."""
ESTIMATED_FROM = 2.0
"""After how many seconds the time left is estimated."""


class Tasks:
    """The tasks that visitors of the page are waiting for.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stops: LRUCache[str, threading.Event] = LRUCache(MAX_TASKS)

    def begin(self, name: str, report: Callable[[float, str], object]) -> OnProgress:
        """Start a task; a running task of the same name is cancelled.

        Args:
            name: whose task, and which.
            report: called as ``report(fraction, text)`` while the task runs.

        Returns:
            A callback for `on_progress`. It raises `CancelledError` once the task is cancelled.
        """
        stop = threading.Event()
        self.cancel(name)
        with self._lock:
            self._stops[name] = stop
        pace = _Pace(self._clock)

        def on_progress(done: int, expected: int) -> None:
            if stop.is_set():
                raise CancelledError("This was cancelled.")
            if expected >= REPORTED_FROM:
                left = pace.seconds_left(done, expected)
                report(done / expected, progress_text(done, expected, left))

        return on_progress

    def cancel(self, name: str) -> None:
        """Stop the running task of this name, if there is one."""
        with self._lock:
            stop = self._stops.get(name)
        if stop is not None:
            stop.set()


class _Pace:
    """Estimates the time left from the steps done since the task, or a part of it, began."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began, self._before, self._last = clock(), 0, sys.maxsize

    def seconds_left(self, done: int, expected: int) -> float | None:
        """The time left in seconds; None while it cannot be told."""
        now = self._clock()
        if done < self._last:  # another part of the task counts from the start
            self._began, self._before = now, done
        self._last = done
        if now - self._began < ESTIMATED_FROM or not self._before < done < expected:
            return None
        return (now - self._began) * (expected - done) / (done - self._before)


def progress_text(done: int, expected: int, seconds_left: float | None = None) -> str:
    """How far a task is, and about how long it still takes.

    >>> progress_text(16, 4000)
    '16 of 4,000 steps'
    >>> progress_text(16, 4000, 596.0), progress_text(2000, 4000, 41.7)
    ('16 of 4,000 steps, about 10 min left', '2,000 of 4,000 steps, about 42 s left')
    """
    text = f"{done:,} of {expected:,} steps"
    if seconds_left is None:
        return text
    minutes = seconds_left / 60
    left = f"{minutes:.0f} min" if minutes >= 1 else f"{seconds_left:.0f} s"
    return f"{text}, about {left} left"

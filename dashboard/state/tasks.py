"""Running tasks: how they report progress, and how they are cancelled."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection

from cachetools import LRUCache

from core.errors import CancelledError

MAX_TASKS = 1000
"""How many tasks can be cancelled; older ones can no longer."""
WAITING = "Waiting for a turn"
"""What is told while slow work waits for other people's."""
REPORTED_FROM = 3
"""A task of fewer steps reports no progress."""
ESTIMATED_FROM = 2.0
"""After how many seconds the time left is estimated."""


class _Stop(threading.Event):
    """Set once a task is cancelled.

    Args:
        asked_at: when the visitor asked, by the visitor's clock; 0 if that is not known.
    """

    def __init__(self, asked_at: float) -> None:
        super().__init__()
        self.asked_at = asked_at
        self.enough = threading.Event()


class Task:
    """A task that a visitor waits for; a callback for `on_progress`.

    Args:
        stop: says whether the task is cancelled, or its visitor content.
        report: called as ``report(fraction, text)``.
        clock: the time in seconds.
    """

    def __init__(
        self, stop: _Stop, report: Callable[[float, str], object], clock: Callable[[], float]
    ) -> None:
        self._stop, self._report, self._pace = stop, report, _Pace(clock)

    def __call__(self, done: int, expected: int) -> None:
        """Report progress, or that a slow task waits for a slot: then nothing is expected yet.

        Raises:
            CancelledError: the task is cancelled.
        """
        self.check()
        if not expected:
            self._report(0.0, WAITING)
        elif expected >= REPORTED_FROM:
            left = self._pace.seconds_left(done, expected)
            self._report(done / expected, progress_text(done, expected, left))

    def check(self) -> None:
        """Nothing, while the task may go on.

        Raises:
            CancelledError: the task is cancelled.
        """
        if self._stop.is_set():
            raise CancelledError("This was cancelled.")

    @property
    def enough(self) -> bool:
        """Whether what there is so far is good enough for the visitor."""
        return self._stop.enough.is_set()


class Tasks:
    """The tasks that visitors of the page are waiting for.

    What a visitor sends may arrive in another order. So a task and its cancellation bear the time,
    by the visitor's clock, and only tasks that were asked for before are cancelled.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stops: LRUCache[str, _Stop] = LRUCache(MAX_TASKS)
        self._cancelled: LRUCache[str, float] = LRUCache(MAX_TASKS)

    def begin(
        self, name: str, report: Callable[[float, str], object], asked_at: float = 0.0
    ) -> Task:
        """Start a task; a task of the same name that was asked for earlier is cancelled.

        Args:
            name: whose task, and which.
            report: called as ``report(fraction, text)`` while the task runs.
            asked_at: when the visitor asked for it; 0 for now.

        Returns:
            A callback for `on_progress`. It raises `CancelledError` once the task is cancelled.
        """
        stop = _Stop(asked_at)
        with self._lock:
            running = self._stops.get(name)
            if asked_at and asked_at < self._last_cancelled(name):
                stop.set()  # the cancellation has overtaken it
            elif running is not None and asked_at and asked_at < running.asked_at:
                stop.set()  # a later question has overtaken it
            else:
                if running is not None:
                    running.set()
                self._stops[name] = stop
        return Task(stop, report, self._clock)

    def enough(self, name: str, before: float = 0.0) -> None:
        """Tell the task of this name, if there is one, that what it has is good enough.

        Args:
            name: whose task, and which.
            before: only if it was asked for before this time; 0 for whatever runs now.
        """
        with self._lock:
            stop = self._stops.get(name)
            if stop is not None and (not before or stop.asked_at < before):
                stop.enough.set()

    def cancel(self, name: str, before: float = 0.0) -> None:
        """Stop the task of this name, if there is one.

        Args:
            name: whose task, and which.
            before: only if it was asked for before this time, whether it runs or is still to
                arrive; 0 for whatever runs now.
        """
        with self._lock:
            if before:
                self._cancelled[name] = max(before, self._cancelled.get(name, 0.0))
            stop = self._stops.get(name)
            if stop is not None and (not before or stop.asked_at < before):
                stop.set()

    def cancel_all(self, visitor: str, before: float = 0.0, keep: Collection[str] = ()) -> None:
        """Stop the tasks of a visitor, whose names are ``VISITOR/TASK``.

        Args:
            visitor: whose tasks.
            before: as for `cancel`.
            keep: tasks that go on.
        """
        with self._lock:
            if before:
                self._cancelled[visitor] = max(before, self._cancelled.get(visitor, 0.0))
            names = list(self._stops)
        for name in names:
            owner, _, task = name.rpartition("/")
            if owner == visitor and task not in keep:
                self.cancel(name, before)

    def _last_cancelled(self, name: str) -> float:
        """Before when a task that arrives is cancelled already."""
        owner = name.rpartition("/")[0]
        return max(self._cancelled.get(key, 0.0) for key in (name, owner))


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
    '16 of 4,000 passes'
    >>> progress_text(16, 4000, 596.0), progress_text(2000, 4000, 41.7)
    ('16 of 4,000 passes, about 10 min left', '2,000 of 4,000 passes, about 42 s left')
    """
    text = f"{done:,} of {expected:,} passes"
    if seconds_left is None:
        return text
    minutes = seconds_left / 60
    left = f"{minutes:.0f} min" if minutes >= 1 else f"{seconds_left:.0f} s"
    return f"{text}, about {left} left"

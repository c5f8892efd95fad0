"""Slow work takes turns and gives way, so that quick work never waits behind it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.types import Cost

STANDSTILL_SECONDS = 2.0
"""For how long slow work stands still before its next step, at most, while there is quick work."""
POLL_SECONDS = 0.1
"""How often those who wait see whether they were cancelled."""


class SlowLane:
    """A few slots for slow work; whoever has waited longest gets the next one.

    Args:
        slots: how much slow work runs at a time.
        most_waiting: how many may wait; others are told to come back.
        when_idle: called, in a thread of its own, when the last slow work has ended.
    """

    def __init__(
        self,
        slots: int = 2,
        most_waiting: int = 32,
        when_idle: Callable[[], object] | None = None,
    ) -> None:
        self.most_waiting = most_waiting
        self._when_idle = when_idle
        self._slots = self._free = slots
        self._quick = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether somebody would wait."""
        return not self._free or bool(self._waiting)

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return self._slots - self._free

    def turn(
        self, cost: Cost, on_progress: OnProgress | None = None
    ) -> AbstractContextManager[OnProgress | None]:
        """`held` for what takes an instant, a `slot` for anything else.

        Args:
            cost: of the work, at most.
            on_progress: see `held` and `slot`.
        """
        return (self.held if cost.pace == "instant" else self.slot)(on_progress)

    @contextmanager
    def held(self, on_progress: OnProgress | None = None) -> Iterator[OnProgress | None]:
        """Quick work inside the block, for which slow work stands still between two steps.

        Gives `on_progress` back, as `slot` does.
        """
        with self._changed:
            self._quick += 1
        try:
            yield on_progress
        finally:
            with self._changed:
                self._quick -= 1
                self._changed.notify_all()

    @contextmanager
    def slot(self, on_progress: OnProgress | None = None) -> Iterator[OnProgress | None]:
        """A slot, kept inside the block.

        Gives the callback that the slow work calls at each step: it stands still while there is
        quick work, and calls `on_progress`.

        Args:
            on_progress: called as ``on_progress(0, 0)`` while waiting; an error that it raises
                ends the wait.

        Raises:
            TimmscopeError: too many wait already.
        """
        self._take(on_progress)
        try:
            yield partial(self._step, on_progress)
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
                idle = self._free == self._slots and not self._waiting
            if idle and self._when_idle is not None:
                threading.Thread(target=self._when_idle, daemon=True).start()

    def _step(self, on_progress: OnProgress | None, done: int, expected: int) -> None:
        until = time.monotonic() + STANDSTILL_SECONDS
        while True:
            if on_progress is not None:
                on_progress(done, expected)
            with self._changed:
                if not self._quick or time.monotonic() > until:
                    return
                self._changed.wait(POLL_SECONDS)

    def _take(self, on_progress: OnProgress | None) -> None:
        mine = object()
        with self._changed:
            if len(self._waiting) >= self.most_waiting:
                raise TimmscopeError(
                    f"{self.most_waiting} people wait for slow methods. Try again in a minute, or "
                    "choose an instant method."
                )
            self._waiting.append(mine)
            try:
                while not (self._free and self._waiting[0] is mine):
                    self._changed.wait(POLL_SECONDS)
                    if on_progress is not None:
                        on_progress(0, 0)
                self._free -= 1
            finally:
                self._waiting.remove(mine)
                self._changed.notify_all()

"""Partial maps: what a slow method has found so far, drawn now and then while it goes on.

A method offers a map after every pass. Most offers are declined at no cost; about once a second one
is drawn and shown. Whoever sees it may say that it is good enough, and then it is the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import Tensor

from core.inputs.batch import OnPartial
from core.types import Attribution, Partial

SECONDS_BEFORE = 0.5
"""How long a method works before its first partial map; what is quicker draws none."""
SECONDS_BETWEEN = 1.0
"""Least time between two partial maps."""
LARGEST_SHARE = 0.05
"""Largest share of the time that drawing and showing partial maps may take."""

Draw = Callable[[], tuple[Tensor, Mapping[str, Tensor]]]
"""Gives the values (1, h, w) found so far, and further results as in `Run.extras`."""


class Stopped(Exception):  # noqa: N818  no error: the result is good enough
    """A partial map was good enough; it never leaves `Explainer.explain`.

    Args:
        found: the map.
        done: samples taken.
    """

    def __init__(self, found: Attribution, done: int) -> None:
        super().__init__(f"good enough after {done} samples")
        self.found, self.done = found, done


class Painter:
    """Decides which of the offered partial maps are drawn, and when to stop.

    Args:
        build: makes an attribution of how far it was taken, its values and further results.
        show: called with each partial map; returns True to stop and keep it.
        stop_after: how many samples to take at most; None for all.
        clock: the time in seconds.
    """

    def __init__(
        self,
        build: Callable[[Partial, Tensor, Mapping[str, Tensor]], Attribution],
        show: OnPartial,
        stop_after: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._build, self._show, self._clock = build, show, clock
        self._stop_after = stop_after
        self._due = clock() + SECONDS_BEFORE
        self._wanted, self._unit, self._taken = 0, "", 0

    def samples(self, wanted: int, unit: str, at_least: int) -> int:
        """How many of `wanted` samples the method shall take; see `Run.samples`."""
        limit = wanted if self._stop_after is None else max(self._stop_after, at_least)
        self._wanted, self._unit, self._taken = wanted, unit, min(wanted, limit)
        return self._taken

    @property
    def partial(self) -> Partial | None:
        """What a result is labelled with that comes without being stopped; None for all samples."""
        whole = self._taken >= self._wanted
        return None if whole else Partial(self._taken, self._wanted, self._unit)

    def offer(self, done: int, draw: Draw) -> None:
        """A method has something to draw; see `Run.paint`.

        Raises:
            Stopped: it is good enough.
        """
        began = self._clock()
        if began < self._due or done >= self._taken:  # the map itself follows the last sample
            return
        found = self._build(Partial(done, self._wanted, self._unit), *draw())
        if self._show(found) is True:
            raise Stopped(found, done)
        now = self._clock()
        self._due = now + max(SECONDS_BETWEEN, (now - began) * (1 / LARGEST_SHARE - 1))

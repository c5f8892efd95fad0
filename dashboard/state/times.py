"""How long methods took, so that the page can say it beside the estimate."""

from __future__ import annotations

import threading

from cachetools import LRUCache

REMEMBERED = 1000
"""How many times are kept; the least recently used goes first."""


class Times:
    """The seconds that a method with default parameters took on a model, the last time.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: LRUCache[tuple[str, str, str], float] = LRUCache(REMEMBERED)

    def note(self, model: str, weights: str, method: str, seconds: float) -> None:
        """Remember a time.

        Args:
            model: the model's name.
            weights: "pretrained" or "random".
            method: the method's key.
            seconds: how long it took.
        """
        with self._lock:
            self._seconds[model, weights, method] = seconds

    def of(self, model: str, weights: str, method: str) -> float | None:
        """The time of a method on a model in seconds; None if it is not known."""
        with self._lock:
            return self._seconds.get((model, weights, method))

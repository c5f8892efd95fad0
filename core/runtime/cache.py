"""A cache bounded in bytes, in which each answer is computed once however many ask at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, wait
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from cachetools import LRUCache
from torch import Tensor

T = TypeVar("T")

OVERHEAD = 512
"""Bytes charged for an object besides its tensors."""
POLL_SECONDS = 0.1
"""How often one who waits for another's computation is asked whether to go on waiting."""


def nbytes(value: object) -> int:
    """Bytes a value keeps alive, tensors within dataclasses and containers included.

    >>> import torch
    >>> nbytes(torch.zeros(1000)) == 4000 + OVERHEAD
    True
    """
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes() + OVERHEAD  # a view keeps all of it alive
    if isinstance(value, (bytes, str)):
        return len(value) + OVERHEAD
    if is_dataclass(value) and not isinstance(value, type):
        return OVERHEAD + sum(nbytes(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, Mapping):
        return OVERHEAD + sum(nbytes(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return OVERHEAD + sum(nbytes(v) for v in value)
    return OVERHEAD


class Cache:
    """Least recently used answers go first; concurrent requests for one answer share its computing.

    Args:
        max_bytes: what all answers together may take. A single larger answer is handed out but not
            kept.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self._lock = threading.Lock()
        self._kept: LRUCache[Hashable, Any] = LRUCache(max_bytes, getsizeof=nbytes)
        self._flying: dict[Hashable, Future[Any]] = {}
        self.hits = 0

    def get_or_compute(
        self,
        key: Hashable,
        compute: Callable[[], T],
        waiting: Callable[[], object] | None = None,
    ) -> T:
        """The answer kept under `key`, or ``compute()``.

        A caller who meets the same computation under way waits for it. If that one fails, the
        waiting caller computes for itself: one person's cancelling must not cancel another's
        answer.

        Args:
            key: what identifies the answer.
            compute: finds it.
            waiting: called again and again while waiting; what it raises ends the wait, and leaves
                the other's computation alone.
        """
        while True:
            with self._lock:
                if key in self._kept:
                    self.hits += 1
                    return cast(T, self._kept[key])
                ours = key not in self._flying
                flight = self._flying.setdefault(key, Future())
            if ours:
                return self._fly(key, flight, compute)
            while waiting is not None and not wait([flight], POLL_SECONDS).done:
                waiting()
            if flight.exception() is None:
                self.hits += 1
                return cast(T, flight.result())

    def put(self, key: Hashable, value: object) -> None:
        """Keep an answer that fell off another computation, unless it is there or under way.

        Never waits: two computations that put each other's answers would wait for ever.
        """
        with self._lock:
            if key not in self._kept and key not in self._flying:
                self._keep(key, value)

    def _fly(self, key: Hashable, flight: Future[Any], compute: Callable[[], T]) -> T:
        try:
            value = compute()
        except BaseException as error:
            self._land(key)
            flight.set_exception(error)
            raise
        self._land(key, value)
        flight.set_result(value)
        return value

    def _land(self, key: Hashable, *value: Any) -> None:
        with self._lock:
            del self._flying[key]
            if value:
                self._keep(key, value[0])

    def _keep(self, key: Hashable, value: Any) -> None:
        if nbytes(value) <= self._kept.maxsize:
            self._kept[key] = value

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._kept

    @property
    def bytes(self) -> int:
        """Bytes in use."""
        return int(self._kept.currsize)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()


class CacheScope:
    """The part of a cache that belongs to one subject: the same images on the same model.

    Args:
        cache: the cache; by default a new one.
        prefix: identifies the subject, the images last.
        waiting: see `Cache.get_or_compute`.
    """

    def __init__(
        self,
        cache: Cache | None = None,
        prefix: tuple[Hashable, ...] = (),
        waiting: Callable[[], object] | None = None,
    ) -> None:
        self._cache = cache or Cache()
        self._prefix = prefix
        self._waiting = waiting

    def get_or_compute(self, key: Hashable, compute: Callable[[], T]) -> T:
        """See `Cache.get_or_compute`."""
        return self._cache.get_or_compute((self._prefix, key), compute, self._waiting)

    def put(self, key: Hashable, value: object) -> None:
        """Keep what fell off another computation; see `Cache.put`."""
        self._cache.put((self._prefix, key), value)

    def beside(self, images: Hashable) -> CacheScope:
        """That of other images on the same model."""
        return CacheScope(self._cache, (*self._prefix[:-1], images), self._waiting)

    def __contains__(self, key: Hashable) -> bool:
        return (self._prefix, key) in self._cache

"""A cache bounded in bytes, in which each answer is computed once however many ask at a time.

`Cache` is shared by all runs; a `CacheScope` is the part of it that belongs to the same images on
the same model.
"""

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
"""How often a caller who waits for another's computation is asked whether to go on waiting."""


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
    """Answers by key; the least recently used goes first when there is no more room.

    Safe to use from several threads: concurrent requests for one answer share one computation.

    Args:
        max_bytes: how many bytes all answers together may take, see `nbytes`. A single larger
            answer is handed out but not kept.

    Attributes:
        hits: how many requests were answered without computing.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self._lock = threading.Lock()
        self._kept: LRUCache[Hashable, Any] = LRUCache(max_bytes, getsizeof=nbytes)
        self._pending: dict[Hashable, Future[Any]] = {}
        self.hits = 0

    def get_or_compute(
        self,
        key: Hashable,
        compute: Callable[[], T],
        waiting: Callable[[], object] | None = None,
    ) -> T:
        """The answer kept under `key`, or ``compute()``.

        A caller who asks for what is already being computed waits for it. If that computation
        fails, the waiting caller computes for itself: when one person cancels, another who asked
        the same still gets an answer.

        Args:
            key: what identifies the answer.
            compute: finds it; what it raises is raised here, and nothing is kept.
            waiting: called about every `POLL_SECONDS` while waiting; what it raises ends the wait,
                and leaves the other's computation alone.
        """
        while True:
            with self._lock:
                if key in self._kept:
                    self.hits += 1
                    return cast(T, self._kept[key])
                first = key not in self._pending
                future = self._pending.setdefault(key, Future())
            if first:
                return self._compute(key, future, compute)
            while waiting is not None and not wait([future], POLL_SECONDS).done:
                waiting()
            if future.exception() is None:
                self.hits += 1
                return cast(T, future.result())

    def put(self, key: Hashable, value: object) -> None:
        """Keep an answer found along with another, unless it is there or being computed.

        Never waits: two computations that put each other's answers would wait for ever.
        """
        with self._lock:
            if key not in self._kept and key not in self._pending:
                self._keep(key, value)

    def peek(self, key: Hashable) -> Any:
        """The answer kept under `key`, or None; does not count as a hit and never waits."""
        with self._lock:
            return self._kept.get(key)

    def take(self, key: Hashable) -> Any:
        """The answer kept under `key`, which is forgotten; None if there is none."""
        with self._lock:
            return self._kept.pop(key, None)

    def _compute(self, key: Hashable, future: Future[Any], compute: Callable[[], T]) -> T:
        """Compute an answer for all who wait for its future, keep it, and give it."""
        try:
            value = compute()
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._pending[key]
            self._keep(key, value)
        future.set_result(value)
        return value

    def _keep(self, key: Hashable, value: Any) -> None:
        if nbytes(value) <= self._kept.maxsize:
            self._kept[key] = value

    def __contains__(self, key: Hashable) -> bool:
        """Whether an answer is kept under `key`; one that is being computed is not yet."""
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
    """The part of a cache that belongs to the same images on the same model.

    Args:
        cache: the cache; by default a new one, which makes the scope a private one.
        prefix: identifies the model and the images, the images last.
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
        """Keep an answer found along with another; see `Cache.put`."""
        self._cache.put((self._prefix, key), value)

    def peek(self, key: Hashable) -> Any:
        """See `Cache.peek`."""
        return self._cache.peek((self._prefix, key))

    def take(self, key: Hashable) -> Any:
        """See `Cache.take`."""
        return self._cache.take((self._prefix, key))

    def for_images(self, name: Hashable) -> CacheScope:
        """The scope of other images on the same model, by their name or digest."""
        return CacheScope(self._cache, (*self._prefix[:-1], name), self._waiting)

    def __contains__(self, key: Hashable) -> bool:
        """Whether an answer is kept under `key`; see `Cache`."""
        return (self._prefix, key) in self._cache

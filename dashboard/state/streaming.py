"""Work that shows what it has so far."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from core.errors import CancelledError

T = TypeVar("T")
Show = Callable[[T | None], None]
"""Shows a result so far; with None it only asks whether anybody waits. Raises `CancelledError` if
nobody does."""


def streamed(job: Callable[[Show[T]], T]) -> Iterator[T]:
    """What `job` shows while it runs in a thread of its own, then what it returns.

    Once the iterator is closed, because nobody waits any longer, the work stops at the next thing
    that it shows.

    Args:
        job: called with a function that shows a result so far. What it raises is raised here.
    """
    shown: SimpleQueue[T | None] = SimpleQueue()
    left = threading.Event()

    def show(found: T | None) -> None:
        if left.is_set():
            raise CancelledError("Nobody waits for this any longer.")
        if found is not None:
            shown.put(found)

    worker = ThreadPoolExecutor(1)
    running = worker.submit(contextvars.copy_context().run, job, show)
    running.add_done_callback(lambda _: shown.put(None))
    try:
        while (found := shown.get()) is not None:
            yield found
        yield running.result()
    finally:
        left.set()
        worker.shutdown(wait=False)

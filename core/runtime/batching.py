"""How rows are put together into passes, counted, and reported as progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from core.types import Cost

Chunk = tuple[Tensor, Tensor]
"""Rows (n, C, H, W) and their owners (n,): which explained image each row belongs to."""


class Budget:
    """How many rows go through a model at once; halved when memory runs out, and remembered.

    Args:
        forward: rows to begin with in a forward pass.
        backward: rows to begin with where a backward pass follows; by default as many.
    """

    def __init__(self, forward: int, backward: int | None = None) -> None:
        self._start = (forward, backward or forward)
        self._known: dict[Hashable, int] = {}

    def rows(self, key: Hashable = (), *, backward: bool = False) -> int:
        """Rows per pass for inputs of the kind `key` (shape, data type and device)."""
        return self._known.get((backward, key), self._start[backward])

    def halve(self, key: Hashable, rows: int, *, backward: bool = False) -> None:
        """Remember that `rows` rows of the kind `key` did not fit."""
        fewer = min(rows // 2, self.rows(key, backward=backward))
        self._known[backward, key] = max(1, fewer)


@dataclass
class Progress:
    """Rows done of rows expected, reported to a callback. A row forward and backward counts twice.

    Attributes:
        callback: called as ``callback(done, expected)``; may raise `CancelledError` to stop.
        done: rows done so far.
        expected: rows announced so far.
    """

    callback: Callable[[int, int], None] | None = None
    done: int = 0
    expected: int = 0

    def expect(self, rows: int) -> None:
        """Announce `rows` to come."""
        self.expected += rows
        self._report()

    def advance(self, rows: int) -> None:
        """Count `rows` as done; 0 rows only gives the callback a chance to cancel."""
        self.done += rows
        self._report()

    def _report(self) -> None:
        if self.callback is not None:
            self.callback(self.done, max(self.done, self.expected, 1))


def joint_progress(
    callback: Callable[[int, int], None] | None, rows: Sequence[int]
) -> Iterator[Callable[[int, int], None]]:
    """One callback for each of several tasks done one after another; each reports all of them.

    Args:
        callback: called as ``callback(done, expected)``, of all tasks together.
        rows: how many rows each task takes, at most.

    >>> first, second = joint_progress(print, [10, 30])
    >>> first(4, 8), second(15, 30)
    4 40
    25 40
    (None, None)
    """

    def report(before: int, most: int, done: int, _expected: int) -> None:
        if callback is not None:
            callback(before + min(done, most), max(sum(rows), 1))

    for i, most in enumerate(rows):
        yield partial(report, sum(rows[:i]), most)


@dataclass
class CostCounter:
    """Counts the work of a run and of those derived from it.

    Attributes:
        forward: rows sent through the model.
        backward: rows differentiated.
        began: when counting began, as `time.perf_counter` tells it.
    """

    forward: int = 0
    backward: int = 0
    began: float = field(default_factory=time.perf_counter)

    def cost(self) -> Cost:
        """The work so far, and the seconds since counting began."""
        return Cost(self.forward, self.backward, time.perf_counter() - self.began)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    phrases = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)


def rebatch(chunks: Iterable[Chunk], limit: Callable[[], int], expected: int) -> Iterator[Chunk]:
    """The same rows in the same order, in passes of at most ``limit()`` rows and of even size.

    Of even size, because a last pass of one or two rows takes nearly as long as a full one.

    Args:
        chunks: rows and owners, lazily; small chunks are merged, large ones split.
        limit: how many rows a pass may have; asked before every pass.
        expected: how many rows are to come in all; 0 if that is not known.
    """
    waiting: list[Chunk] = []
    count = done = 0
    for chunk in chunks:
        waiting.append(chunk)
        count += len(chunk[0])
        while count >= (size := _even(expected - done, limit())):
            rows, owner = (torch.cat(parts) for parts in zip(*waiting, strict=True))
            yield rows[:size], owner[:size]
            waiting, count, done = [(rows[size:], owner[size:])], count - size, done + size
    if count:
        rows, owner = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        yield rows, owner


def _even(left: int, limit: int) -> int:
    """The size of the next pass so that the fewest passes share `left` rows evenly.

    >>> [_even(left, 8) for left in (50, 42, 35, 0)]
    [8, 7, 7, 8]
    """
    return math.ceil(left / math.ceil(left / limit)) if left > 0 else limit


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Gives a function that returns the accelerator memory in use beyond what was in use before.

    In bytes, at its peak; None on the CPU.
    """
    if device.type != "cuda":
        yield lambda: None
        return
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) - before

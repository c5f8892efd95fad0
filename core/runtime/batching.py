"""Passes: how rows are put together, counted and told of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from core.types import Cost

Chunk = tuple[Tensor, Tensor]
"""Rows (n, C, H, W) and their owners (n,): which explained image each row belongs to."""


class Budget:
    """Rows per pass, learnt: halved when memory runs out, and remembered.

    Args:
        forward: rows to begin with in a forward pass.
        backward: rows to begin with where a backward pass follows; by default as many.
    """

    def __init__(self, forward: int, backward: int | None = None) -> None:
        self._start = (forward, backward or forward)
        self._known: dict[Hashable, int] = {}

    def rows(self, key: Hashable = (), *, backward: bool = False) -> int:
        """Rows per pass for inputs of the kind `key`."""
        return self._known.get((backward, key), self._start[backward])

    def halve(self, key: Hashable, rows: int, *, backward: bool = False) -> None:
        """Remember that `rows` rows of the kind `key` did not fit."""
        fewer = min(rows // 2, self.rows(key, backward=backward))
        self._known[backward, key] = max(1, fewer)


@dataclass
class Progress:
    """Rows done of rows expected, told to whoever wants to know.

    Attributes:
        callback: called as ``callback(done, expected)``; may raise `CancelledError` to stop.
    """

    callback: Callable[[int, int], None] | None = None
    done: int = 0
    expected: int = 0

    def expect(self, rows: int) -> None:
        """Announce work to come."""
        self.expected += rows
        self._tell()

    def advance(self, rows: int) -> None:
        """Report work done."""
        self.done += rows
        self._tell()

    def _tell(self) -> None:
        if self.callback is not None:
            self.callback(self.done, max(self.done, self.expected))


def in_turn(
    callback: Callable[[int, int], None] | None, rows: Sequence[int]
) -> Iterator[Callable[[int, int], None]]:
    """For each of several pieces of work a callback of its own, which tells of all of them.

    Args:
        callback: called as ``callback(done, expected)``.
        rows: how many rows each piece takes, at most.

    >>> first, second = in_turn(print, [10, 30])
    >>> first(4, 8), second(15, 30)
    4 40
    25 40
    (None, None)
    """

    def tell(before: int, most: int, done: int, _expected: int) -> None:
        if callback is not None:
            callback(before + min(done, most), sum(rows))

    for i, most in enumerate(rows):
        yield partial(tell, sum(rows[:i]), most)


@dataclass
class CostCounter:
    """Counts the work of one run."""

    forward: int = 0
    backward: int = 0
    began: float = field(default_factory=time.perf_counter)

    def cost(self) -> Cost:
        """The work so far."""
        return Cost(self.forward, self.backward, time.perf_counter() - self.began)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on whatever device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in text for words in ("can't allocate memory", "out of memory", "not enough memory")
    )


def rebatch(chunks: Iterable[Chunk], limit: Callable[[], int], expected: int) -> Iterator[Chunk]:
    """The same rows in the same order, in even passes of at most ``limit()`` rows.

    Even, because a last pass of one or two rows takes nearly as long as a full one.
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

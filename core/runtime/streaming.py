"""Send rows through a model in passes that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from core.errors import MemoryExhaustedError
from core.runtime.batching import Chunk, is_out_of_memory, rebatch
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.subject import Subject

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PassKind:
    """What decides how many rows fit into one pass.

    Attributes:
        key: identifies the kind of input: its shape, data type and device.
        backward: whether a backward pass follows.
        copies: how many rows go through the model for each row of the input.
    """

    key: Hashable
    backward: bool = False
    copies: int = 1


def stream_passes(
    subject: Subject,
    chunks: Iterable[Chunk],
    step: Callable[[Tensor, Tensor], T],
    kind: PassKind,
    *,
    expected: int,
    on_pass: Callable[[int], None],
) -> Iterator[tuple[Tensor, T]]:
    """``(owner, step(rows, owner))`` over passes of as many rows as the model's budget allows.

    When memory runs out, the budget is halved and the rows are tried again in smaller passes.

    Args:
        subject: the model; it is locked and in evaluation mode during each pass.
        chunks: rows and owners, lazily; small chunks are merged, large ones split.
        step: one pass, with gradients on.
        kind: the kind of pass.
        expected: how many rows are to come; even passes share them.
        on_pass: called with the number of rows after each pass, before its result is given.

    Raises:
        MemoryExhaustedError: not even one row fits into memory.
    """
    budget = subject.budget

    def limit() -> int:
        return max(1, budget.rows(kind.key, backward=kind.backward) // kind.copies)

    for chunk in rebatch(chunks, limit, expected):
        pending = [chunk]
        while pending:
            rows, owner = pending.pop()
            try:
                with subject.lock, evaluation_mode(subject.model):
                    result = step(rows, owner)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                budget.halve(kind.key, kind.copies * len(rows), backward=kind.backward)
                if len(rows) == 1:
                    raise memory_exhausted(subject.name, rows, rows.device) from None
            else:
                on_pass(len(rows))
                yield owner, result
                continue
            half = len(rows) // 2
            pending += [(rows[half:], owner[half:]), (rows[:half], owner[:half])]


def memory_exhausted(name: str, rows: Tensor, device: torch.device) -> MemoryExhaustedError:
    """The error for a model called `name` that cannot take one of these rows (n, ..., H, W)."""
    return MemoryExhaustedError(
        f"{name} at {rows.shape[-2]}x{rows.shape[-1]} pixels does not fit into the memory of "
        f"{device}, even one row at a time; free memory, choose a smaller model or another "
        "device"
    )

"""Several targets from one forward pass, with a backward pass for each.

A run may have extra targets beside its own. A pass that differentiates then does so for each of
them, from the same forward pass, and keeps what it finds for the runs that explain them. Such a run
counts the backward pass that was made for it as its own, so the costs of all runs add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from core.tasks.outputs import Outputs

if TYPE_CHECKING:
    from core.runtime.run import Run

ScoreFunction = Callable[[Outputs, Tensor], Tensor]
"""Scores (n,) of a model's outputs for n rows and their owners."""


def score_functions(run: Run) -> dict[str, ScoreFunction]:
    """What gives the scores of each target of a run, its own first, by the target's key."""
    others = {target.key: target for target in run.extra_targets if target.key != run.asked}
    return {run.asked: run.score_of, **others}


def scores_of_each(
    functions: dict[str, ScoreFunction], outputs: Outputs, owner: Tensor
) -> Iterator[tuple[str, Tensor, bool]]:
    """Key and scores (n,) of each target, and whether another needs the graph after it."""
    last = next(reversed(functions))
    for key, score_of in functions.items():
        yield key, score_of(outputs, owner), key != last


def count_for_others(run: Run, keys: Iterable[str]) -> None:
    """Note that each of these targets had a backward pass, for the run that explains it."""
    for key in keys:
        if key != run.asked:
            run.cache_scope.put(("backward rows", key), len(run.x))


def count_own(run: Run) -> None:
    """Count the backward pass that another run made for this run's target, if any; once."""
    rows = run.cache_scope.take(("backward rows", run.asked)) or 0
    run.cost_counter.backward += rows
    run.progress.advance(rows)

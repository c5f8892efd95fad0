"""Integrals along straight paths, with nodes put where the gradient changes.

Along a path the score is known at every node besides its slope, so the error on each stretch
between two nodes can be seen: the trapezoid under the slopes against the score's change. Their sum
is the completeness error. It says nothing of slopes right in sum and wrong in parts, so stretches
are halved for either reason: their error, or how much the gradient changes on them. Nodes are only
added, never moved: no pass is wasted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from core.runtime.batching import Chunk
from core.runtime.run import Run

FIRST = 9
"""Nodes to begin with, evenly spaced, both ends among them."""

AT_ONCE = 8
"""Nodes added at a time: a pass's worth, chosen before any of them is known."""

KEPT_BYTES = 256 * 2**20
"""What the maps kept of all paths under way may take."""


class Integral(NamedTuple):
    """Maps and how they came about.

    Attributes:
        values: (B, H, W) the integral, summed over channels, mean over paths.
        converged: (B,) 1 where all paths did, else 0.
        passes: (B,) rows differentiated.
    """

    values: Tensor
    converged: Tensor
    passes: Tensor


class Node(NamedTuple):
    """What one pass told: the score, its slope along the path, the slope's parts (H, W)."""

    score: float
    slope: float
    parts: Tensor


@dataclass
class Path:
    """The way from one baseline to one picture, each (1, C, H, W).

    Attributes:
        start: the baseline.
        end: the picture.
        owner: (1,) the image explained.
        allowed: the error, in the score's unit, at which to stop.
        most: how many passes it may take.
    """

    start: Tensor
    end: Tensor
    owner: Tensor
    allowed: float
    most: int
    passes: int = 0
    nodes: dict[float, Node] = field(default_factory=dict)
    _changes: dict[tuple[float, float], float] = field(default_factory=dict)

    def row(self, place: float) -> Tensor:
        """The picture (1, C, H, W) at a place from 0 to 1."""
        return torch.lerp(self.start, self.end, place)

    def take(self, place: float, score: Tensor, grad: Tensor) -> None:
        """Note what a pass told."""
        parts = ((self.end - self.start)[0] * grad).sum(0)
        self.nodes[place] = Node(float(score), float(parts.sum(dtype=torch.float64)), parts)
        self.passes += 1

    def wanted(self) -> list[float]:
        """Where to look next; nowhere once the error is settled or the passes are used up."""
        if not self.nodes:
            count = min(FIRST, self.most)
            return [i / (count - 1) for i in range(count)]
        if self.settled:
            return []
        urgency = self._urgency()
        worst = sorted(urgency, key=lambda stretch: -urgency[stretch])
        return [(a + b) / 2 for a, b in worst[: min(AT_ONCE, self.most - self.passes)]]

    @property
    def settled(self) -> bool:
        """Whether neither the errors' sum nor what they would sum to by chance is too large."""
        errors = [self._error(a, b) for a, b in self._stretches()]
        return max(abs(math.fsum(errors)), math.hypot(*errors)) <= self.allowed

    def integral(self) -> Tensor:
        """(H, W) the integral of the slope's parts."""
        total = torch.zeros_like(self.nodes[0.0].parts)
        for a, b in self._stretches():
            total += (b - a) / 2 * (self.nodes[a].parts + self.nodes[b].parts)
        return total

    def _urgency(self) -> dict[tuple[float, float], float]:
        """Each stretch's share of all errors and its share of all change."""
        stretches = self._stretches()
        errors = [abs(self._error(a, b)) for a, b in stretches]
        changes = [self._change(a, b) for a, b in stretches]
        all_errors, all_changes = math.fsum(errors) or 1.0, math.fsum(changes) or 1.0
        return {
            stretch: error / all_errors + change / all_changes
            for stretch, error, change in zip(stretches, errors, changes, strict=True)
        }

    def _stretches(self) -> list[tuple[float, float]]:
        return list(pairwise(sorted(self.nodes)))

    def _error(self, a: float, b: float) -> float:
        """How far the trapezoid is from the score's change on a stretch."""
        left, right = self.nodes[a], self.nodes[b]
        return (b - a) / 2 * (left.slope + right.slope) - (right.score - left.score)

    def _change(self, a: float, b: float) -> float:
        """How much the slope's parts change on a stretch, times its length."""
        if (a, b) not in self._changes:
            apart = self.nodes[b].parts - self.nodes[a].parts
            self._changes[a, b] = (b - a) * float(apart.norm())
        return self._changes[a, b]


def integrate(run: Run, starts: Tensor, allowed: Tensor, most: int) -> Integral:
    """The straight paths' integrals from each baseline to each picture of a run.

    Args:
        run: whose pictures and target.
        starts: (baselines, B, C, H, W) where the paths start.
        allowed: (B,) the error at which to stop, in the score's unit.
        most: passes a path may take.
    """
    count, (height, width) = len(run.x), run.x.shape[-2:]
    every = [(k, i) for k in range(len(starts)) for i in range(count)]
    together = max(1, KEPT_BYTES // (4 * most * height * width))
    values = torch.zeros_like(run.x[:, 0])
    converged, passes = torch.ones_like(allowed), torch.zeros_like(allowed)
    for first in range(0, len(every), together):
        of = every[first : first + together]
        paths = [
            Path(starts[k, i, None], run.x[i, None], run.owner[i, None], float(allowed[i]), most)
            for k, i in of
        ]
        _follow(run, paths)
        for path, (_, i) in zip(paths, of, strict=True):
            values[i] += path.integral() / len(starts)
            converged[i] *= path.settled
            passes[i] += path.passes
    return Integral(values, converged, passes)


def _follow(run: Run, paths: list[Path]) -> None:
    """Look where the paths want to, all of them together, until none wants more."""
    while asked := [(path, place) for path in paths for place in path.wanted()]:

        def rows(asked: list[tuple[Path, float]] = asked) -> Iterator[Chunk]:
            for path, place in asked:
                yield path.row(place), path.owner

        waiting = iter(asked)
        for _, scores, grads in run.gradients(rows(), expected=len(asked)):
            for score, grad in zip(scores, grads, strict=True):
                path, place = next(waiting)
                path.take(place, score, grad)

"""Adaptive quadrature along straight paths, with more nodes where the gradient changes.

Each pass gives the score and its slope at a node. So the error of each interval between two nodes
is known: the trapezoid of the slopes minus the change of the score. The sum of these errors is the
completeness error. Contributions of single pixels may still be wrong while their sum is right, so
an interval is halved for two reasons: a large error, or a large change of the gradient. Nodes are
only added, so every pass is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from core.runtime.batching import Chunk
from core.runtime.run import Run

INITIAL_NODES = 9
"""Number of evenly spaced nodes to start with, including both ends."""

NODES_PER_ROUND = 8
"""Number of nodes added together, so that they can share a pass."""

MAX_BYTES = 256 * 2**20
"""Memory for the gradient maps of all paths that are integrated together, in bytes."""


class Integral(NamedTuple):
    """The integrals of a batch.

    Attributes:
        values: (B, H, W) the integral, summed over channels, mean over paths.
        converged: (B,) 1 if all paths of an image converged, else 0.
        passes: (B,) number of gradient passes.
    """

    values: Tensor
    converged: Tensor
    passes: Tensor


class Node(NamedTuple):
    """The result of one pass: score, its slope along the path, each pixel's part of it (H, W)."""

    score: float
    slope: float
    parts: Tensor


@dataclass
class Path:
    """The straight path from one baseline to one picture.

    Attributes:
        start: (1, C, H, W) the baseline.
        end: (1, C, H, W) the picture.
        owner: (1,) the explained image.
        tolerance: the error at which to stop, in the unit of the score.
        max_passes: maximum number of gradient passes.
        passes: number of passes so far.
        nodes: the results by position on the path, from 0 (start) to 1 (end).
    """

    start: Tensor
    end: Tensor
    owner: Tensor
    tolerance: float
    max_passes: int
    passes: int = 0
    nodes: dict[float, Node] = field(default_factory=dict)
    _changes: dict[tuple[float, float], float] = field(default_factory=dict)

    def row(self, position: float) -> Tensor:
        """The picture (1, C, H, W) at a position from 0 to 1."""
        return torch.lerp(self.start, self.end, position)

    def record(self, position: float, score: Tensor, grad: Tensor) -> None:
        """Adds the node of one pass.

        Args:
            position: from 0 to 1.
            score: the score there.
            grad: (C, H, W) its gradient.
        """
        parts = ((self.end - self.start)[0] * grad).sum(0)
        self.nodes[position] = Node(float(score), float(parts.sum(dtype=torch.float64)), parts)
        self.passes += 1

    def next_positions(self) -> list[float]:
        """Positions of the next nodes; empty if converged or out of passes."""
        if not self.nodes:
            count = min(INITIAL_NODES, self.max_passes)
            return [i / (count - 1) for i in range(count)]
        if self.converged:
            return []
        priority = self._priorities()
        worst = sorted(priority, key=lambda interval: -priority[interval])
        count = min(NODES_PER_ROUND, self.max_passes - self.passes)
        return [(a + b) / 2 for a, b in worst[:count]]

    @property
    def converged(self) -> bool:
        """Whether both the sum and the root of squares of all errors are within the tolerance.

        The second condition excludes a small sum in which large errors cancel by chance.
        """
        errors = [self._error(a, b) for a, b in self._intervals()]
        return max(abs(math.fsum(errors)), math.hypot(*errors)) <= self.tolerance

    def integral(self) -> Tensor:
        """(H, W) the contribution of each pixel, by the trapezoidal rule."""
        total = torch.zeros_like(self.nodes[0.0].parts)
        for a, b in self._intervals():
            total += (b - a) / 2 * (self.nodes[a].parts + self.nodes[b].parts)
        return total

    def _priorities(self) -> dict[tuple[float, float], float]:
        """Priority of each interval: its share of all errors plus its share of all change."""
        intervals = self._intervals()
        errors = [abs(self._error(a, b)) for a, b in intervals]
        changes = [self._change(a, b) for a, b in intervals]
        all_errors, all_changes = math.fsum(errors) or 1.0, math.fsum(changes) or 1.0
        return {
            interval: error / all_errors + change / all_changes
            for interval, error, change in zip(intervals, errors, changes, strict=True)
        }

    def _intervals(self) -> list[tuple[float, float]]:
        return list(pairwise(sorted(self.nodes)))

    def _error(self, a: float, b: float) -> float:
        """The trapezoid of the slopes minus the change of the score on an interval."""
        left, right = self.nodes[a], self.nodes[b]
        return (b - a) / 2 * (left.slope + right.slope) - (right.score - left.score)

    def _change(self, a: float, b: float) -> float:
        """L2 norm of the change of all pixels' slopes on an interval, times its length."""
        if (a, b) not in self._changes:
            difference = self.nodes[b].parts - self.nodes[a].parts
            self._changes[a, b] = (b - a) * float(difference.norm())
        return self._changes[a, b]


def coarse_to_fine(count: int) -> list[int]:
    """The numbers from 0 to `count` - 1 in an order whose beginnings are spread over all of them.

    They come in pairs about the middle, bit-reversed (van der Corput), so that the mean of a
    function over the first of them is an estimate of the mean over all, and exact for a straight
    line if their number is even.

    >>> coarse_to_fine(8), coarse_to_fine(5)
    ([2, 5, 1, 6, 3, 4, 0, 7], [1, 3, 0, 4, 2])
    """
    half = (count + 1) // 2
    bits = half.bit_length()
    turned = (int(f"{k:0{bits}b}"[::-1], 2) * half >> bits for k in range(1, 2**bits))
    return list(dict.fromkeys(i for one in turned for i in (one, count - 1 - one)))


def integrate(
    run: Run,
    starts: Tensor,
    tolerance: Tensor,
    max_passes: int,
    paint: Callable[[int, Callable[[], Tensor]], None] | None = None,
) -> Integral:
    """Integrates along the straight paths from each baseline to each picture of a run.

    Args:
        run: the pictures and the target.
        starts: (baselines, B, C, H, W) where the paths start.
        tolerance: (B,) the error at which to stop, in the unit of the score.
        max_passes: maximum number of gradient passes per path.
        paint: called between rounds with the passes taken per path, and what gives the integral
            (1, H, W) so far; for one picture.
    """
    count, (height, width) = len(run.x), run.x.shape[-2:]
    pairs = [(k, i) for k in range(len(starts)) for i in range(count)]
    at_once = max(1, MAX_BYTES // (4 * max_passes * height * width))
    values = torch.zeros_like(run.x[:, 0])
    converged, passes = torch.ones_like(tolerance), torch.zeros_like(tolerance)
    for first in range(0, len(pairs), at_once):
        chunk = pairs[first : first + at_once]
        paths = [
            Path(
                starts[k, i, None],
                run.x[i, None],
                run.owner[i, None],
                float(tolerance[i]),
                max_passes,
            )
            for k, i in chunk
        ]

        def after_round(paths: list[Path] = paths) -> None:
            if paint is not None and len(paths) == len(starts):
                paint(max(path.passes for path in paths), lambda: _mean_integral(paths))

        _add_nodes(run, paths, after_round)
        for path, (_, i) in zip(paths, chunk, strict=True):
            values[i] += path.integral() / len(starts)
            converged[i] *= path.converged
            passes[i] += path.passes
    return Integral(values, converged, passes)


def _mean_integral(paths: list[Path]) -> Tensor:
    """(1, H, W) the mean over paths that end in the same picture."""
    return torch.stack([path.integral() for path in paths]).mean(0, keepdim=True)


def _add_nodes(run: Run, paths: list[Path], after_round: Callable[[], None]) -> None:
    """Adds nodes to all paths together until each has converged or is out of passes."""
    while nodes := [(path, position) for path in paths for position in path.next_positions()]:

        def rows(nodes: list[tuple[Path, float]] = nodes) -> Iterator[Chunk]:
            for path, position in nodes:
                yield path.row(position), path.owner

        pending = iter(nodes)
        for _, scores, grads in run.gradients(rows(), expected=len(nodes)):
            for score, grad in zip(scores, grads, strict=True):
                path, position = next(pending)
                path.record(position, score, grad)
        after_round()

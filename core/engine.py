"""Run: one question put to a model, answered in as few passes as it takes.

A method sees the model only through a `Run`. It streams rows (images, perturbed copies of images)
through the model under a memory budget, counts the work, reports progress, and shares what other
methods asked already.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from core import capture
from core.cache import Shelf
from core.errors import MemoryExhaustedError, ModelError, NotApplicableError
from core.targets import Target, predicted
from core.types import AttentionLayer, Cost, Layer

T = TypeVar("T")
Piece = tuple[Tensor, Tensor]
"""Rows (n, C, H, W) and their owners (n,): which explained image each row belongs to."""


class Subject(Protocol):
    """The model as the engine sees it; `ModelHandle` is one."""

    @property
    def name(self) -> str:
        """What the model is called in messages."""

    @property
    def model(self) -> nn.Module:
        """The model itself."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held during every pass: hooks on a shared model and parallel passes do not mix."""

    @property
    def budget(self) -> Budget:
        """How many rows go through the model at once."""

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Every module by name."""

    @property
    def attention_layers(self) -> Mapping[str, AttentionLayer]:
        """Every module that computes attention, by name."""

    def pixel(self, value: float) -> Tensor:
        """A grey level in [0, 1] as (C, 1, 1) model units."""


class Budget:
    """Rows per pass, learnt: halved when memory runs out, and remembered.

    Args:
        rows: rows to begin with.
    """

    def __init__(self, rows: int) -> None:
        self.start = rows
        self._known: dict[Hashable, int] = {}

    def rows(self, key: Hashable) -> int:
        """Rows per pass for inputs of the kind `key`."""
        return self._known.get(key, self.start)

    def halve(self, key: Hashable, rows: int) -> None:
        """Remember that `rows` rows of the kind `key` did not fit."""
        self._known[key] = max(1, min(rows // 2, self.rows(key)))


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


@dataclass
class Meter:
    """Counts the work of one run."""

    forward: int = 0
    backward: int = 0
    began: float = field(default_factory=time.perf_counter)

    def cost(self) -> Cost:
        """The work so far."""
        return Cost(self.forward, self.backward, time.perf_counter() - self.began)


@dataclass(frozen=True, slots=True)
class LayerGradients:
    """What one backward pass to a layer gives.

    Attributes:
        score: (B,) the explained score.
        act: (B, K, h, w) the layer's output, prefix tokens left out.
        grad: (B, K, h, w) the gradient of the score with respect to it.
    """

    score: Tensor
    act: Tensor
    grad: Tensor


class Run:
    """These images, this model, this target.

    Args:
        subject: the model.
        x: (B, C, H, W) images in model units.
        target: what is explained; None for each image's predicted class.
        layer: the layer looked at; for attention methods, the attention layer. None if the method
            looks at none.
        along: further layers to capture whenever a pass looks at a layer: that costs the longer way
            back to the earliest of them, and a pass each later.
        seed: where every random draw starts.
        owner: (B,) the explained image each row of `x` belongs to; by default row b is image b.
        shelf: where earlier runs on these images left what they found.
        progress: told of every pass.
        meter: counts the work; a nested run shares its parent's.
    """

    def __init__(
        self,
        subject: Subject,
        x: Tensor,
        target: Target | None = None,
        *,
        layer: str | None = None,
        along: Sequence[str] = (),
        seed: int = 0,
        owner: Tensor | None = None,
        shelf: Shelf | None = None,
        progress: Progress | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.subject = subject
        self.x = x
        self.layer = layer
        self.along = tuple(along)
        self.seed = seed
        self.owner = torch.arange(len(x), device=x.device) if owner is None else owner
        self.shelf = shelf or Shelf()
        self.progress = progress or Progress()
        self.meter = meter or Meter()
        self.extras: dict[str, Tensor] = {}
        self._target = target

    def nested(self, x: Tensor, owner: Tensor, target: Target | None = None) -> Run:
        """A run on other rows of the same images, with the same layer, seed and counters."""
        return Run(
            self.subject,
            x,
            target or self.target,
            layer=self.layer,
            seed=self.seed,
            owner=owner,
            progress=self.progress,
            meter=self.meter,
        )

    def generator(self) -> torch.Generator:
        """A fresh private generator, the same for each image: batching cannot change a result."""
        return torch.Generator().manual_seed(self.seed % 2**63)

    # -- what a method can ask ------------------------------------------------------------------

    @property
    def target(self) -> Target:
        """What is explained; finding out the predicted class may take a forward pass."""
        if self._target is None:
            self._target = predicted(self.outputs())
        return self._target

    @property
    def asked(self) -> str:
        """The target's key as asked, without finding out the predicted class."""
        return "predicted" if self._target is None else self._target.key

    def outputs(self) -> Tensor:
        """(B, N) the model's outputs for `x`, detached; one forward pass an image at most, ever."""

        def step(rows: Tensor, _owner: Tensor) -> Tensor:
            with torch.no_grad():
                return self._logits(rows)

        def compute() -> Tensor:
            self.progress.expect(len(self.x))
            return torch.cat([out for _, out in self._stream([(self.x, self.owner)], step)])

        return self.shelf.get_or_compute("outputs", compute)

    def score(self) -> Tensor:
        """(B,) the target's score of `x`, unperturbed."""
        return self.target(self.outputs(), self.owner).detach()

    def scores(self, pieces: Iterable[Piece], expected: int = 0) -> Tensor:
        """(n,) scores of all rows in `pieces`, in order, without gradients.

        Args:
            pieces: rows and owners, lazily; small pieces are merged, large ones split.
            expected: how many rows are to come, for progress.
        """
        self.progress.expect(expected)
        target = self.target

        def step(rows: Tensor, owner: Tensor) -> Tensor:
            with torch.no_grad():
                return target(self._logits(rows), owner)

        return torch.cat([score for _, score in self._stream(pieces, step, expected=expected)])

    def gradients(
        self, pieces: Iterable[Piece], expected: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scores and input gradients of rows, pass by pass.

        Yields:
            owner (n,), score (n,), gradient of each row's own score (n, C, H, W).
        """
        self.progress.expect(2 * expected)
        target = self.target

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
            rows = rows.detach().requires_grad_()
            score = target(self._logits(rows), owner)
            if not score.requires_grad:
                raise NotApplicableError(
                    f"{self.subject.name} has no gradient from output to input"
                )
            (gradient,) = torch.autograd.grad(score.sum(), rows)
            return score.detach(), gradient

        stream = self._stream(pieces, step, backward=True, expected=expected)
        for owner, (score, gradient) in stream:
            yield owner, score, gradient

    def layer_gradients(self) -> LayerGradients:
        """Score, activation and gradient at the run's layer; one pass, cut at the layer."""
        layer, asked = self._spatial_layer(), self.asked

        def compute() -> LayerGradients:
            wanted = dict.fromkeys([layer, *self.along])
            found = self._tap([name for name in wanted if ("layer", asked, name) not in self.shelf])
            for name in self.along:
                if name in found:
                    self.shelf.put(("layer", asked, name), found[name])
            return found[layer]

        return self.shelf.get_or_compute(("layer", asked, layer), compute)

    def activation(self) -> Tensor:
        """(B, K, h, w) the output of the run's layer; one forward pass, the first time."""
        name = self._spatial_layer()

        def step(rows: Tensor, _owner: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad(), capture.tap(self.subject.model, [name]) as taps:
                logits = self._logits(rows)
            if name not in taps:
                raise self._takes_no_part(name)
            return logits, taps[name].detach()

        def compute() -> Tensor:
            self.progress.expect(len(self.x))
            passes = [p for _, p in self._stream([(self.x, self.owner)], step)]
            logits, act = (torch.cat(parts) for parts in zip(*passes, strict=True))
            self.shelf.put("outputs", logits)
            return self._on_grid(name, act)

        return self.shelf.get_or_compute(("activation", name), compute)

    def attention(self) -> Mapping[str, Tensor]:
        """(B, heads, queries, keys) attention maps by layer, in order of execution."""

        def step(rows: Tensor, _owner: Tensor) -> dict[str, Tensor]:
            with torch.no_grad(), capture.attention(self.subject.model) as maps:
                self._logits(rows)
            wanted = self.subject.attention_layers.values()
            return {layer.name: maps[layer.name] for layer in wanted if layer.layout is not None}

        def compute() -> dict[str, Tensor]:
            self.progress.expect(len(self.x))
            parts = [m for _, m in self._stream([(self.x, self.owner)], step)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        return self.shelf.get_or_compute("attention", compute)

    # -- how it is answered ---------------------------------------------------------------------

    def _tap(self, names: list[str]) -> dict[str, LayerGradients]:
        """`layer_gradients` of several layers from one forward and one backward pass."""
        target = self._target

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
            with capture.tap(self.subject.model, names) as taps:
                logits = self._logits(rows)
            absent = [name for name in names if name not in taps or not logits.requires_grad]
            if absent:
                raise self._takes_no_part(absent[0])
            if target is None:
                score = logits.gather(1, logits.argmax(1, keepdim=True))[:, 0]
            else:
                score = target(logits, owner)
            kept = [taps[name] for name in names]
            found = torch.autograd.grad(
                score.sum(), kept, allow_unused=True, materialize_grads=True
            )
            return logits.detach(), score.detach(), [act.detach() for act in kept], list(found)

        self.progress.expect(2 * len(self.x))
        passes = [p for _, p in self._stream([(self.x, self.owner)], step, backward=True)]
        logits, score = (torch.cat(parts) for parts in list(zip(*passes, strict=True))[:2])
        self.shelf.put("outputs", logits)
        return {
            name: LayerGradients(
                score,
                self._on_grid(name, torch.cat([acts[i] for _, _, acts, _ in passes])),
                self._on_grid(name, torch.cat([grads[i] for _, _, _, grads in passes])),
            )
            for i, name in enumerate(names)
        }

    def _spatial_layer(self) -> str:
        if self.layer is None:
            raise NotApplicableError(
                f"{self.subject.name} has no layer that lies on a spatial grid"
            )
        return self.layer

    def _takes_no_part(self, name: str) -> NotApplicableError:
        return NotApplicableError(
            f"layer {name!r} takes no part in what {self.subject.name} predicts; "
            "choose another layer"
        )

    def _on_grid(self, name: str, output: Tensor) -> Tensor:
        layout = self.subject.layers[name].layout
        if layout is None:
            raise NotApplicableError(
                f"layer {name!r} of {self.subject.name} does not lie on a spatial grid; "
                "choose another layer"
            )
        return layout.to_nchw(output)

    def _logits(self, rows: Tensor) -> Tensor:
        return logits_of(self.subject.model(rows), self.subject.name)

    def _stream(
        self,
        pieces: Iterable[Piece],
        step: Callable[[Tensor, Tensor], T],
        *,
        backward: bool = False,
        expected: int = 0,
    ) -> Iterator[tuple[Tensor, T]]:
        """``(owner, step(rows, owner))`` over passes of as many rows as the budget allows."""
        key = (backward, tuple(self.x.shape[1:]), self.x.dtype, str(self.x.device))
        budget = self.subject.budget
        for rows, owner in _merged(pieces, lambda: budget.rows(key), expected):
            pending = [(rows, owner)]
            while pending:
                rows, owner = pending.pop()
                try:
                    with self.subject.lock, capture.quiet(self.subject.model):
                        result = step(rows, owner)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    budget.halve(key, len(rows))
                    if len(rows) == 1:
                        raise MemoryExhaustedError(
                            f"{self.subject.name} at {rows.shape[-2]}x{rows.shape[-1]} pixels does "
                            f"not fit into the memory of {rows.device}, even one row at a time; "
                            "free memory, choose a smaller model or another device"
                        ) from None
                else:
                    self._count(len(rows), backward)
                    yield owner, result
                    continue
                half = len(rows) // 2
                pending += [(rows[half:], owner[half:]), (rows[:half], owner[:half])]

    def _count(self, rows: int, backward: bool) -> None:
        self.meter.forward += rows
        self.meter.backward += rows if backward else 0
        self.progress.advance(2 * rows if backward else rows)


def logits_of(output: Any, name: str) -> Tensor:
    """The (B, N) scores within whatever a model returns.

    A mapping gives its `logits`, a tuple or list its first tensor. Raises `ModelError` if nothing
    of the shape (B, N) is there.
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"{name} returns {shape} where (images, classes) is needed; wrap it in a module that "
            "returns one score per class"
        )
    return output


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on whatever device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in text for words in ("can't allocate memory", "out of memory", "not enough memory")
    )


def _merged(pieces: Iterable[Piece], limit: Callable[[], int], expected: int) -> Iterator[Piece]:
    """The same rows in the same order, in even passes of at most ``limit()`` rows.

    Even, because a last pass of one or two rows takes nearly as long as a full one.
    """
    waiting: list[Piece] = []
    count = done = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece[0])
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

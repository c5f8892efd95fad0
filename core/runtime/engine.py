"""Run: one question put to a model, answered in as few passes as it takes.

A method sees the model only through a `Run`. It streams rows (images, perturbed copies of images)
through the model under a memory budget, counts the work, reports progress, and shares what other
methods asked already.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from core.errors import MemoryExhaustedError, NotApplicableError
from core.runtime import capture
from core.runtime.batching import Budget, Chunk, CostCounter, Progress, is_out_of_memory, rebatch
from core.runtime.cache import CacheScope
from core.tasks.base import Target
from core.tasks.classification import predicted
from core.tasks.outputs import has_no_classes, read_logits
from core.types import AttentionLayer, Layer, grouped

T = TypeVar("T")
KEPT_BYTES = 64 * 2**20
"""What the outputs kept for other targets may take."""


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

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of what it sees."""

    @property
    def stem(self) -> str | None:
        """The convolution that alone sees the picture; None if there is none."""

    @property
    def samples(self) -> Tensor:
        """(n, C, H, W) the pictures that come extra_layers, in model units."""

    def enlarged(self, times: int) -> Subject | None:
        """The same seeing pictures so many times as high and wide; None if it cannot."""

    def clone(self) -> Subject:
        """The same on a copy of the model, whose weights may be changed."""

    def pixel(self, value: float) -> Tensor:
        """A grey level in [0, 1] as (C, 1, 1) model units."""

    def to_pixels(self, x: Tensor) -> Tensor:
        """Model units (..., C, H, W) as a person sees them: pixel values in [0, 1]."""


class Stem:
    """A model's first layer, an affine map that alone sees the picture.

    Along a straight path its outputs lie on a straight path, and to sum gradients of pixels it need
    be differentiated only once.

    Args:
        subject: the model.
        name: the layer's name.
    """

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject = subject
        self.module = subject.model.get_submodule(name)

    def __call__(self, x: Tensor) -> Tensor:
        """(n, K, h, w) the layer's output for pictures (n, C, H, W), detached."""
        with self.subject.lock, capture.quiet(self.subject.model), torch.no_grad():
            output: Tensor = self.module(x)
        return output

    def back(self, grad: Tensor, x: Tensor) -> Tensor:
        """Gradients (n, C, H, W) of pictures `x` from those of the layer's outputs."""
        with self.subject.lock, capture.quiet(self.subject.model):
            x = x.detach().requires_grad_()
            (pixels,) = torch.autograd.grad(self.module(x), x, grad)
        return pixels


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

    @property
    def slopes(self) -> Tensor:
        """(B, K) how the score changes with a factor on each channel."""
        return (self.grad * self.act).sum((2, 3))


@dataclass(frozen=True, slots=True)
class AttentionGradients:
    """What one backward pass to all attention maps gives.

    Attributes:
        score: (B,) the explained score.
        attn: maps by layer, see `Run.attention`.
        grad: the gradients of the score with respect to them.
    """

    score: Tensor
    attn: dict[str, Tensor]
    grad: dict[str, Tensor]


class Run:
    """These images, this model, this target.

    Args:
        subject: the model.
        x: (B, C, H, W) images in model units.
        target: what is explained; None for each image's predicted class.
        layer: the layer looked at; for attention methods, the attention layer. None if the method
            looks at none.
        extra_layers: further layers to capture whenever a pass looks at a layer: that costs the
            longer way back to the earliest of them, and a pass each later.
        seed: where every random draw starts.
        owner: (B,) the explained image each row of `x` belongs to; by default row b is image b.
        cache_scope: where earlier runs on these images left what they found.
        progress: told of every pass.
        cost_counter: counts the work; a nested run shares its parent's.
    """

    def __init__(
        self,
        subject: Subject,
        x: Tensor,
        target: Target | None = None,
        *,
        layer: str | None = None,
        extra_layers: Sequence[str] = (),
        seed: int = 0,
        owner: Tensor | None = None,
        cache_scope: CacheScope | None = None,
        progress: Progress | None = None,
        cost_counter: CostCounter | None = None,
    ) -> None:
        self.subject = subject
        self.x = x
        self.layer = layer
        self.extra_layers = tuple(extra_layers)
        self.seed = seed
        self.owner = torch.arange(len(x), device=x.device) if owner is None else owner
        self.cache_scope = cache_scope or CacheScope()
        self.progress = progress or Progress()
        self.cost_counter = cost_counter or CostCounter()
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
            cost_counter=self.cost_counter,
        )

    def elsewhere(self, subject: Subject, x: Tensor) -> Run:
        """The same question put to another model; its passes count as this run's."""
        return Run(
            subject,
            x,
            self.target,
            layer=self.layer,
            seed=self.seed,
            owner=self.owner,
            progress=self.progress,
            cost_counter=self.cost_counter,
        )

    def beside(self, x: Tensor, name: str) -> Run:
        """A run on images that are the same for every run; what it finds is kept for all of them.

        Args:
            x: (n, C, H, W) the images, in model units.
            name: theirs.
        """
        cache_scope = self.cache_scope.beside(name)
        return Run(
            self.subject,
            x,
            cache_scope=cache_scope,
            progress=self.progress,
            cost_counter=self.cost_counter,
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

        def compute() -> Tensor:
            replies = self._replies([(self.x, self.owner)], len(self.x))
            return torch.cat([out for _, out in replies])

        return self.cache_scope.get_or_compute("outputs", compute)

    def score(self) -> Tensor:
        """(B,) the target's score of `x`, unperturbed."""
        return self.target(self.outputs(), self.owner).detach()

    def scores(
        self, chunks: Iterable[Chunk], expected: int = 0, keep: Hashable | None = None
    ) -> Tensor:
        """(n,) scores of all rows in `chunks`, in order, without gradients.

        Args:
            chunks: rows and owners, lazily; small pieces are merged, large ones split.
            expected: how many rows are to come.
            keep: names rows that do not depend on the target; all outputs for them are kept if they
                are few enough, and then another target costs no pass.
        """
        target = self.target
        if self._keeps(expected, keep):
            owners, outs = self.replies(chunks, expected, keep)
            return target(outs, owners)
        return torch.cat([target(out, owner) for owner, out in self._replies(chunks, expected)])

    def replies(
        self, chunks: Iterable[Chunk], expected: int = 0, keep: Hashable | None = None
    ) -> tuple[Tensor, Tensor]:
        """Owners (n,) and the model's outputs (n, N) of all rows in `chunks`; see `scores`."""

        def compute() -> tuple[Tensor, Tensor]:
            owners, outs = zip(*self._replies(chunks, expected), strict=True)
            return torch.cat(owners), torch.cat(outs)

        if not self._keeps(expected, keep):
            return compute()
        return self.cache_scope.get_or_compute(("replies", keep), compute)

    def _keeps(self, rows: int, keep: Hashable | None) -> bool:
        return keep is not None and rows * self.outputs().shape[1] * 4 <= KEPT_BYTES

    def _replies(self, chunks: Iterable[Chunk], expected: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Owners (n,) and outputs (n, N) of rows, pass by pass, without gradients."""

        def step(rows: Tensor, _owner: Tensor) -> Tensor:
            with torch.no_grad():
                return self.logits(rows)

        self.progress.expect(expected)
        return self.stream(chunks, step, expected=expected)

    def stem(self) -> Stem | None:
        """The model's first layer, if it is affine and alone sees the picture."""
        name = self.subject.stem
        return None if name is None else Stem(self.subject, name)

    def gradients(
        self, chunks: Iterable[Chunk], expected: int = 0, stem: Stem | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scores and input gradients of rows, pass by pass.

        Args:
            chunks: rows and owners, lazily.
            expected: how many rows are to come.
            stem: given, rows are this layer's outputs instead of pictures, and so are gradients.

        Yields:
            owner (n,), score (n,), gradient of each row's own score, of the row's shape.
        """
        self.progress.expect(2 * expected)
        target = self.target

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
            rows = rows.detach().requires_grad_()
            score = target(self.logits(rows) if stem is None else self._after(stem, rows), owner)
            if not score.requires_grad:
                raise NotApplicableError(
                    f"{self.subject.name} has no gradient from output to input"
                )
            (gradient,) = torch.autograd.grad(score.sum(), rows)
            return score.detach(), gradient

        stream = self.stream(chunks, step, backward=True, expected=expected)
        for owner, (score, gradient) in stream:
            yield owner, score, gradient

    def layer_gradients(self) -> LayerGradients:
        """Score, activation and gradient at the run's layer; one pass, cut at the layer."""
        layer, asked = self._spatial_layer(), self.asked

        def compute() -> LayerGradients:
            wanted = dict.fromkeys([layer, *self.extra_layers])
            found = self._tap(
                [name for name in wanted if ("layer", asked, name) not in self.cache_scope]
            )
            for name in self.extra_layers:
                if name in found:
                    self.cache_scope.put(("layer", asked, name), found[name])
            return found[layer]

        return self.cache_scope.get_or_compute(("layer", asked, layer), compute)

    def activation(self) -> Tensor:
        """(B, K, h, w) the output of the run's layer; one forward pass, the first time."""
        name = self._spatial_layer()

        def step(rows: Tensor, _owner: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad(), capture.tap(self.subject.model, [name]) as taps:
                logits = self.logits(rows)
            if name not in taps:
                raise self._takes_no_part(name)
            return logits, taps[name].detach()

        def compute() -> Tensor:
            self.progress.expect(len(self.x))
            passes = [p for _, p in self.stream([(self.x, self.owner)], step)]
            logits, act = (torch.cat(parts) for parts in zip(*passes, strict=True))
            self.cache_scope.put("outputs", logits)
            return self._on_grid(name, act)

        return self.cache_scope.get_or_compute(("activation", name), compute)

    def attention(self) -> dict[str, Tensor]:
        """(B, heads, T, T) attention maps by layer, in order of execution.

        Where the layer has `keys`, the maps are grouped: (B, heads, groups, queries, keys).
        """

        def step(rows: Tensor, _owner: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.no_grad(), capture.attention(self.subject.model) as maps:
                logits = self.logits(rows)
            return logits, self.attention_maps(maps, len(rows))

        def compute() -> dict[str, Tensor]:
            self.progress.expect(len(self.x))
            passes = [p for _, p in self.stream([(self.x, self.owner)], step)]
            logits, parts = zip(*passes, strict=True)
            self.cache_scope.put("outputs", torch.cat(logits))
            return _joined(parts)

        return self.cache_scope.get_or_compute("attention", compute)

    def attention_gradients(self) -> AttentionGradients:
        """Attention maps of every layer, and the score's gradients with respect to them.

        One forward and one backward pass, which goes no deeper than the first layer of attention.

        Raises:
            NotApplicableError: the score does not depend on any map, as far as can be told.
        """
        target = self._target

        def step(
            rows: Tensor, owner: Tensor
        ) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
            with capture.attention(self.subject.model, capture.in_graph) as maps:
                logits = self.logits(rows)
            if target is None:
                score = logits.gather(1, logits.argmax(1, keepdim=True))[:, 0]
            else:
                score = target(logits, owner)
            grads = capture.gradients(score.sum(), maps)
            if not grads:
                raise NotApplicableError(
                    f"the score of {self.subject.name} has no gradient with respect to its "
                    "attention; use attention_rollout"
                )
            kept = {name: weights.detach() for name, weights in maps.items()}
            own, slopes = (self.attention_maps(found, len(rows)) for found in (kept, grads))
            return logits.detach(), score.detach(), own, slopes

        def compute() -> AttentionGradients:
            self.progress.expect(2 * len(self.x))
            passes = [p for _, p in self.stream([(self.x, self.owner)], step, backward=True)]
            logits, score, maps, grads = zip(*passes, strict=True)
            self.cache_scope.put("outputs", torch.cat(logits))
            return AttentionGradients(torch.cat(score), _joined(maps), _joined(grads))

        return self.cache_scope.get_or_compute(("attention gradients", self.asked), compute)

    def attention_maps(self, maps: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """The maps of layers that lie on the picture, out of what one pass of `images` recorded."""
        return {
            layer.name: maps[layer.name]
            if layer.keys is None
            else grouped(maps[layer.name], images, layer.axis)
            for layer in self.subject.attention_layers.values()
            if layer.layout is not None and layer.name in maps
        }

    # -- passes of a method's own ----------------------------------------------------------------

    def logits(self, rows: Tensor) -> Tensor:
        """(n, N) the model's outputs; only for use in a step of `stream`."""
        model = self.subject.model
        return read_logits(model(rows), self.subject.name, features=has_no_classes(model))

    def stream(
        self,
        chunks: Iterable[Chunk],
        step: Callable[[Tensor, Tensor], T],
        *,
        backward: bool = False,
        expected: int = 0,
        copies: int = 1,
    ) -> Iterator[tuple[Tensor, T]]:
        """``(owner, step(rows, owner))`` over passes of as many rows as the budget allows.

        Args:
            chunks: rows and owners, lazily.
            step: one pass, with the model quiet and locked, gradients on, by way of `logits`. It is
                tried again with fewer rows when memory runs out.
            backward: whether it differentiates.
            expected: how many rows are to come; even passes share them.
            copies: how many rows the step sends through the model for each it is given.
        """
        key = (tuple(self.x.shape[1:]), self.x.dtype, str(self.x.device))
        budget = self.subject.budget

        def limit() -> int:
            return max(1, budget.rows(key, backward=backward) // copies)

        for rows, owner in rebatch(chunks, limit, expected):
            pending = [(rows, owner)]
            while pending:
                rows, owner = pending.pop()
                try:
                    with self.subject.lock, capture.quiet(self.subject.model):
                        result = step(rows, owner)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    budget.halve(key, copies * len(rows), backward=backward)
                    if len(rows) == 1:
                        raise MemoryExhaustedError(
                            f"{self.subject.name} at {rows.shape[-2]}x{rows.shape[-1]} pixels does "
                            f"not fit into the memory of {rows.device}, even one row at a time; "
                            "free memory, choose a smaller model or another device"
                        ) from None
                else:
                    self._count(copies * len(rows), backward)
                    yield owner, result
                    continue
                half = len(rows) // 2
                pending += [(rows[half:], owner[half:]), (rows[:half], owner[:half])]

    # -- how it is answered ---------------------------------------------------------------------

    def _tap(self, names: list[str]) -> dict[str, LayerGradients]:
        """`layer_gradients` of several layers from one forward and one backward pass."""
        target = self._target

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
            with capture.tap(self.subject.model, names) as taps:
                logits = self.logits(rows)
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
        passes = [p for _, p in self.stream([(self.x, self.owner)], step, backward=True)]
        logits, score = (torch.cat(parts) for parts in list(zip(*passes, strict=True))[:2])
        self.cache_scope.put("outputs", logits)
        return {
            name: LayerGradients(
                score,
                self._on_grid(name, torch.cat([acts[i] for _, _, acts, _ in passes])),
                self._on_grid(name, torch.cat([grads[i] for _, _, _, grads in passes])),
            )
            for i, name in enumerate(names)
        }

    def _after(self, stem: Stem, rows: Tensor) -> Tensor:
        """(n, N) the model's outputs for given outputs of its first layer."""
        blank = self.x[:1].expand(len(rows), -1, -1, -1)
        with capture.resume(capture.Past(stem.module, []), rows.clone()):
            return self.logits(blank)

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

    def _count(self, rows: int, backward: bool) -> None:
        self.cost_counter.forward += rows
        self.cost_counter.backward += rows if backward else 0
        self.progress.advance(2 * rows if backward else rows)


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, of all passes."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

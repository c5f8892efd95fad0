"""Run: one question put to a model, answered in as few passes as it takes.

A method asks the model through a `Run`. It streams rows (images, perturbed copies of images)
through the model under a memory budget, counts the work, reports progress, and keeps what other
runs on the same images may use.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor

from core.errors import NotApplicableError
from core.runtime import attention_outputs, layer_outputs
from core.runtime.attention_outputs import AttentionGradients
from core.runtime.batching import Chunk, CostCounter, Progress
from core.runtime.cache import CacheScope
from core.runtime.layer_outputs import LayerGradients
from core.runtime.model_call import differentiate
from core.runtime.painting import Draw, Painter
from core.runtime.resume import PassUntilLayer, resume_after
from core.runtime.stem import Stem
from core.runtime.streaming import PassKind, stream_passes
from core.runtime.subject import Subject
from core.tasks.base import Target
from core.tasks.outputs import Outputs, joined

T = TypeVar("T")
Watch = Callable[[Tensor], object]
"""Called with the scores (n,) of each pass."""
KEPT_BYTES = 64 * 2**20
"""How many bytes the outputs kept for other targets may take, for one set of rows."""


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
"""In `Run.derive`: as in the run it is derived from."""


class Run:
    """These images, this model, this target.

    Args:
        subject: the model.
        x: (B, C, H, W) images in model units.
        target: what is explained; None for each image's predicted class.
        layer: the layer that the method uses; for attention methods, the attention layer. None if
            it uses none.
        extra_layers: further layers to capture whenever a pass captures a layer: that costs the
            longer way back to the earliest of them, and saves a later pass for each.
        extra_targets: further targets to differentiate whenever a pass differentiates at a layer or
            at attention maps: one more backward pass for each, which saves a later forward pass.
        seed: where every random draw starts.
        owner: (B,) the explained image each row of `x` belongs to; by default row b is image b.
        cache_scope: where runs on these images keep what they find for one another; by default a
            private one.
        progress: notified of every pass.
        cost_counter: counts the work; a derived run shares its parent's.

    Attributes:
        extras: further results by name, (B, ...) each, for a method to put here.
        painter: takes partial maps; None if nobody wants them. A derived run has none.
    """

    def __init__(
        self,
        subject: Subject,
        x: Tensor,
        target: Target | None = None,
        *,
        layer: str | None = None,
        extra_layers: Sequence[str] = (),
        extra_targets: Sequence[Target] = (),
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
        self.extra_targets = tuple(extra_targets)
        self.seed = seed
        self.owner = torch.arange(len(x), device=x.device) if owner is None else owner
        self.cache_scope = cache_scope or CacheScope()
        self.progress = progress or Progress()
        self.cost_counter = cost_counter or CostCounter()
        self.extras: dict[str, Tensor] = {}
        self.painter: Painter | None = None
        self._target = target

    def derive(
        self,
        *,
        x: Tensor | None = None,
        subject: Subject | None = None,
        owner: Tensor | Unchanged | None = UNCHANGED,
        target: Target | Unchanged | None = UNCHANGED,
        layer: str | Unchanged | None = UNCHANGED,
        extra_layers: Sequence[str] | None = None,
        extra_targets: Sequence[Target] = (),
        seed: int | None = None,
        cost_counter: CostCounter | None = None,
        images_name: Hashable | None = None,
    ) -> Run:
        """A related run: the same question, but for what is given here.

        What is cached belongs to the same rows on the same model. So a run with `x`, `subject` or
        `owner` of its own gets a private cache scope, unless `images_name` names its images. If the
        target is the predicted class, such a run explains the class that this run predicts.

        Args:
            x: (n, C, H, W) other rows, in model units.
            subject: another model.
            owner: (n,) whose image each row is, for more or fewer rows; None: row b is image b.
            target: another target; None: each row's own predicted class.
            layer: another layer; None for none.
            extra_layers: further layers to capture.
            extra_targets: further targets; those of this run are not taken over.
            seed: where random draws start.
            cost_counter: a counter of its own, for work that is not to count as this run's.
            images_name: names images `x`, such as the sample pictures, for runs that share them.

        Raises:
            ValueError: rows and owners differ in number, or images are named on another model.
        """
        other_rows = x is not None or subject is not None or owner is not UNCHANGED
        if images_name is not None and (x is None or subject is not None):
            raise ValueError("images_name names images x on the same model")
        if target is UNCHANGED:
            target = self.target if other_rows else self._target
        x = self.x if x is None else x
        owner = self.owner if owner is UNCHANGED else owner
        if owner is not None and len(owner) != len(x):
            raise ValueError(f"{len(x)} rows with {len(owner)} owners; give owner as well as x")
        cache_scope = CacheScope() if other_rows else self.cache_scope
        if images_name is not None:
            cache_scope = self.cache_scope.for_images(images_name)
        return Run(
            self.subject if subject is None else subject,
            x,
            target,
            layer=self.layer if layer is UNCHANGED else layer,
            extra_layers=self.extra_layers if extra_layers is None else extra_layers,
            extra_targets=extra_targets,
            seed=self.seed if seed is None else seed,
            owner=owner,
            cache_scope=cache_scope,
            progress=self.progress,
            cost_counter=cost_counter or self.cost_counter,
        )

    def generator(self) -> torch.Generator:
        """A fresh random generator that starts at the seed, to be used for each image alike.

        So neither batching nor the order of images can change a result.
        """
        return torch.Generator().manual_seed(self.seed % 2**63)

    # -- partial maps ---------------------------------------------------------------------------

    def samples(self, wanted: int, unit: str, at_least: int = 1) -> int:
        """How many samples a method shall take, of which `paint` then counts those done.

        The samples are the first of those that it would take otherwise.

        Args:
            wanted: how many the parameters say.
            unit: what is counted, such as "masks".
            at_least: fewer than these make no map.

        Returns:
            `wanted`, or fewer if the map is to stop early; it is then labelled so.
        """
        if self.painter is None:
            return wanted
        return self.painter.samples(wanted, unit, min(at_least, wanted))

    def paint(self, done: int, draw: Draw) -> None:
        """Offer a map of what is done so far, which is drawn if one is due.

        Only for maps that mean something: an estimate, coarser or less certain, of the whole map.

        Args:
            done: samples done.
            draw: gives the map of the run's one image, and what is known of its error. It is called
                rarely, and leaves what the method has collected as it is.

        Raises:
            Stopped: the map is good enough. Let it pass.
        """
        if self.painter is not None:
            self.painter.offer(done, draw)

    # -- outputs and scores ---------------------------------------------------------------------

    @property
    def target(self) -> Target:
        """What is explained; finding out the predicted class may take a forward pass."""
        if self._target is None:
            self._target = self.subject.task.default_target(self.outputs())
        return self._target

    @property
    def asked(self) -> str:
        """The target's key as asked, without finding out the predicted class."""
        return "predicted" if self._target is None else self._target.key

    def outputs(self) -> Outputs:
        """The model's outputs for `x`, detached; no pass while they are kept."""

        def compute() -> Outputs:
            replies = self._replies([(self.x, self.owner)], len(self.x))
            return joined([out for _, out in replies])

        return self.cache_scope.get_or_compute("outputs", compute)

    def score(self) -> Tensor:
        """(B,) the target's score of `x`, unperturbed."""
        return self.target(self.outputs(), self.owner).detach()

    def scores(
        self,
        chunks: Iterable[Chunk],
        expected: int = 0,
        keep: Hashable | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """(n,) scores of all rows in `chunks`, in order, without gradients.

        Args:
            chunks: rows and owners, lazily; small chunks are merged, large ones split.
            expected: how many rows are to come.
            keep: names rows that do not depend on the target; if `expected` rows are few enough,
                all outputs for them are kept, and then another target costs no pass.
            watch: called after each pass with its scores; not at all if the outputs are kept.
        """
        target = self.target
        if self._keeps(expected, keep):
            owners, outs = self.replies(chunks, expected, keep, watch)
            return target(outs, owners)
        replies = self._replies(chunks, expected, watch)
        return torch.cat([target(out, owner) for owner, out in replies])

    def replies(
        self,
        chunks: Iterable[Chunk],
        expected: int = 0,
        keep: Hashable | None = None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Outputs]:
        """Owners (n,) and the model's outputs of all rows in `chunks`; see `scores`."""

        def compute() -> tuple[Tensor, Outputs]:
            owners, outs = zip(*self._replies(chunks, expected, watch), strict=True)
            return torch.cat(owners), joined(outs)

        if not self._keeps(expected, keep):
            return compute()
        return self.cache_scope.get_or_compute(("replies", keep), compute)

    def _keeps(self, rows: int, keep: Hashable | None) -> bool:
        return keep is not None and rows * self.outputs().row_bytes <= KEPT_BYTES

    def _replies(
        self, chunks: Iterable[Chunk], expected: int, watch: Watch | None = None
    ) -> Iterator[tuple[Tensor, Outputs]]:
        """Owners (n,) and outputs of rows, pass by pass, without gradients."""

        def step(rows: Tensor, _owner: Tensor) -> Outputs:
            with torch.no_grad():
                return self.forward(rows)

        self.progress.expect(expected)
        for owner, outputs in self.stream(chunks, step, expected=expected):
            if watch is not None:
                watch(self.target(outputs, owner))
            yield owner, outputs

    # -- gradients of the input -----------------------------------------------------------------

    def stem(self) -> Stem | None:
        """The model's first layer, if it is affine and alone reads the image; None if not."""
        name = self.subject.stem
        return None if name is None else Stem(self.subject, name)

    def gradients(
        self, chunks: Iterable[Chunk], expected: int = 0, stem: Stem | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scores and input gradients of rows, pass by pass.

        Args:
            chunks: rows and owners, lazily.
            expected: how many rows are to come.
            stem: given, rows are this layer's outputs instead of images, and so are gradients.

        Yields:
            owner (n,), score (n,), gradient of each row's own score, of the row's shape.

        Raises:
            NotApplicableError: the model has no gradient.
        """
        self.progress.expect(2 * expected)
        target = self.target

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
            rows = rows.detach().requires_grad_()
            outputs = self.forward(rows) if stem is None else self._forward_after(stem, rows)
            score = target(outputs, owner)
            if not score.requires_grad:
                raise NotApplicableError(
                    f"{self.subject.name} has no gradient from output to input"
                )
            (gradient,) = differentiate(score.sum(), rows, name=self.subject.name)
            return score.detach(), gradient

        stream = self.stream(chunks, step, backward=True, expected=expected)
        for owner, (score, gradient) in stream:
            yield owner, score, gradient

    def _forward_after(self, stem: Stem, rows: Tensor) -> Outputs:
        """The model's outputs for given outputs of its first layer."""
        blank = self.x[:1].expand(len(rows), -1, -1, -1)
        with resume_after(PassUntilLayer(stem.module), rows.clone()):
            return self.forward(blank)

    # -- one layer ------------------------------------------------------------------------------

    def layer_gradients(self) -> LayerGradients:
        """Score, activation and gradient at the run's layer.

        One forward and one backward pass, which goes no deeper than the layer and the extra layers;
        and one more backward pass for each extra target.

        Raises:
            NotApplicableError: there is no such layer on a spatial grid, or the score does not
                depend on it.
        """
        return layer_outputs.layer_gradients(self)

    def activation(self) -> Tensor:
        """(B, K, h, w) the output of the run's layer; one forward pass, the first time.

        Raises:
            NotApplicableError: there is no such layer on a spatial grid, or no pass reaches it.
        """
        return layer_outputs.activation(self)

    def activations(self, names: Sequence[str]) -> dict[str, Tensor]:
        """(B, K, h, w) the output of each of several layers; one forward pass, the first time.

        Raises:
            NotApplicableError: a layer does not lie on a spatial grid, or no pass reaches it.
        """
        return layer_outputs.activations(self, names)

    # -- attention ------------------------------------------------------------------------------

    def attention(self) -> dict[str, Tensor]:
        """(B, heads, T, T) attention maps by layer, in order of execution.

        Where `AttentionLayer.keys` is set, the maps are grouped: (B, heads, groups, queries, keys).
        """
        return attention_outputs.attention(self)

    def attention_gradients(self) -> AttentionGradients:
        """Attention maps of every layer, and the score's gradients with respect to them.

        One forward and one backward pass, which goes no deeper than the first layer of attention;
        and one more backward pass for each extra target.

        Raises:
            NotApplicableError: the score does not depend on any map, as far as can be told.
        """
        return attention_outputs.attention_gradients(self)

    def attention_maps(self, maps: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Of the maps recorded in a pass of `images`, those that lie on the picture.

        Returns:
            Maps by layer, in order of execution; shapes as in `attention`.
        """
        return attention_outputs.maps_on_picture(self.subject, maps, images)

    # -- custom passes ---------------------------------------------------------------------------

    def forward(self, rows: Tensor) -> Outputs:
        """The model's outputs for rows (n, C, H, W); only for use in a step of `stream`.

        Raises:
            ModelFailure: the model raised an error.
            ModelError: it returned nothing that can be read.
        """
        return self.subject.task.read(self.subject.forward(rows))

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
            step: one pass, by way of `forward`; the model is in evaluation mode and locked, and
                gradients are on. It is tried again with fewer rows when memory runs out.
            backward: whether it differentiates.
            expected: how many rows are to come; even passes share them.
            copies: how many rows the step sends through the model for each it is given.

        Raises:
            MemoryExhaustedError: not even one row fits into memory.
        """

        def count(rows: int) -> None:
            self.cost_counter.forward += copies * rows
            self.cost_counter.backward += copies * rows if backward else 0
            self.progress.advance((2 if backward else 1) * copies * rows)

        key = (tuple(self.x.shape[1:]), self.x.dtype, str(self.x.device))
        kind = PassKind(key, backward, copies)
        return stream_passes(self.subject, chunks, step, kind, expected=expected, on_pass=count)

    def pass_over_images(
        self, step: Callable[[Tensor, Tensor], T], *, backward: bool = False
    ) -> list[T]:
        """What `step` gives for the run's own images, pass by pass; see `stream`."""
        self.progress.expect((2 if backward else 1) * len(self.x))
        return [found for _, found in self.stream([(self.x, self.owner)], step, backward=backward)]

    def score_of(self, outputs: Outputs, owner: Tensor) -> Tensor:
        """(n,) the score of outputs of the run's own images, for use in a step of `stream`.

        Where the predicted class is explained and not known yet, it is found in these outputs.
        """
        if self._target is None:
            target = self.subject.task.default_target(outputs)
            return target(outputs, torch.arange(len(outputs), device=owner.device))
        return self._target(outputs, owner)

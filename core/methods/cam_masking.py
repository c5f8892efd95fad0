"""Class activation maps whose weights come from trying: what a channel shows, or does without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.errors import ModelFailure, NotApplicableError
from core.methods.base import Method, register
from core.methods.cam import CAM_PROPERTIES, check_alive
from core.runtime.batching import Chunk, CostCounter
from core.runtime.layer_outputs import LayerGradients
from core.runtime.resume import PassUntilLayer, record_until, resume_after
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property

AFFINE = 1e-5
"""How far a score may be from affine, as a share of what the channels add to it."""
EVEN = 1e-6
"""A Score-CAM that is the plain mean of the channels up to this share of it says nothing of the
target."""
PIECE = 16
"""Channels tried at a time; passes are made of them as memory allows."""

Relu = Field(
    True, title="ReLU", description="Keep only evidence for the target; off shows both signs"
)


def most_varied(act: Tensor, count: int) -> Tensor:
    """Which channels (B, n) of an activation (B, K, h, w) vary most, in their order; 0 is all."""
    return _largest(act.flatten(2).var(2), count)


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Where the largest (B, n) of sizes (B, K) are, in their order; 0 is all."""
    total = sizes.shape[1]
    if not 0 < count < total:
        return torch.arange(total, device=sizes.device).expand(len(sizes), -1)
    return sizes.topk(count, dim=1).indices.sort(1).values


def _tried(channels: int, subject: Subject, layer: str | None) -> int:
    layout = subject.layers[layer].layout if layer is not None else None
    there = layout.channels if layout is not None else 0
    return min(channels, there) if channels else there


# -- Score-CAM ----------------------------------------------------------------------------------


@register(
    "scorecam",
    label="Score-CAM",
    family="cam",
    about="Best for a CAM that needs no gradient; not for speed, it takes a pass per channel.",
    paper="arXiv:1910.01279",
    needs=[Need.LAYER],
    properties=CAM_PROPERTIES,
)
class ScoreCAM(Method):
    """Channels weighted by the score of what of the picture they show (Wang et al., 2020).

    Each channel, stretched over the input and scaled from 0 to 1, is multiplied with the input; the
    weights are the softmax over the scores of these. The corners of the channel's grid lie on the
    corners of the input. A channel without contrast shows nothing, and all of these take one pass
    together. Another target at the same layer takes none. Fewer `channels` make the map
    approximate: on EfficientNet-Lite0 and two photographs, 16, 64 and 256 of 1280 gave maps that
    correlate at least 0.94, 0.99 and 0.9999 with the exact one.
    """

    relu: bool = Relu
    channels: int = Field(
        0,
        ge=0,
        le=8192,
        title="Channels (fewer is approximate)",
        description="How many channels to try, those that vary most; 0 tries all and is exact, 64 "
        "of 1280 correlated 0.99 with it",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(_tried(self.channels, subject, layer) + 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        act = run.activation()
        picked = most_varied(act, self.channels)
        act = act.gather(1, picked[:, :, None, None].expand(-1, -1, *act.shape[2:]))
        score = run.score()
        shows = act.amax((2, 3)) > act.amin((2, 3))  # (B, n)
        blank = ~shows.all(1)
        counts = (shows.sum(1) + blank).tolist()
        found = run.scores(
            self._copies(run, act, shows), sum(counts), ("scorecam", self.channels, run.layer)
        )
        rows = []
        for seen, scores in zip(shows, found.split(counts), strict=True):
            row = scores[-1].repeat(len(seen))  # the blank one, where there is one
            row[seen] = scores[: int(seen.sum())]
            rows.append(row)
        weights = torch.stack(rows).softmax(1)
        values = (weights[:, :, None, None] * act).sum(1)
        even = act.mean(1)
        if (
            act.shape[1] > 1
            and ((values - even).abs().amax((1, 2)) <= EVEN * even.abs().amax((1, 2))).any()
        ):
            raise NotApplicableError(
                f"Score-CAM weighs all channels of {run.layer!r} alike: what they show of the "
                "picture makes no difference to this score; choose another method or layer"
            )
        return values.relu() if self.relu else values, score

    def _copies(self, run: Run, act: Tensor, shows: Tensor) -> Iterator[Chunk]:
        for image, owner in enumerate(run.owner):
            x = run.x[image : image + 1]
            for chunk in act[image][shows[image]].split(PIECE):
                yield x * self._masks(chunk, x)[:, None], owner.expand(len(chunk))
            if not shows[image].all():
                yield torch.zeros_like(x), owner[None]

    def _masks(self, channels: Tensor, x: Tensor) -> Tensor:
        """Channels (n, h, w) over the input, each from 0 to 1."""
        size = tuple(x.shape[2:])
        over = F.interpolate(channels[:, None], size=size, mode="bilinear", align_corners=True)
        least, most = over.amin((2, 3), keepdim=True), over.amax((2, 3), keepdim=True)
        return ((over - least) / (most - least + 1e-8))[:, 0]


# -- Ablation-CAM -------------------------------------------------------------------------------


@register(
    "ablationcam",
    label="Ablation-CAM",
    family="cam",
    about="Best for what the score truly loses without a channel; not ahead of a layer "
    "normalisation or for negative scores.",
    paper="10.1109/WACV45572.2020.9093360",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=[Property.CLASS_SENSITIVE, Property.NONNEGATIVE],
)
class AblationCAM(Method):
    """Channels weighted by the share of the score lost without them (Desai & Ramaswamy, 2020).

    The weight of channel k is (y - y_k) / y, where y_k is the score with the channel set to zero;
    where the score itself is zero it is the plain difference. Where the score is an affine function
    of the channels, as before global average pooling and a linear head, every y_k follows from one
    gradient; that it is one is tried out on each image. Elsewhere only what comes after the layer
    is run again. Such rows are no full rows and not counted as cost; `extras["tail_rows"]` says how
    many there were of each image. With fewer `channels` those not tried weigh nothing, unless their
    weight is known anyway. In a model that cannot be resumed at the layer they are full rows
    and counted.
    """

    relu: bool = Relu
    channels: int = Field(
        0,
        ge=0,
        le=8192,
        title="Channels (fewer is approximate)",
        description="How many channels to try, those that count most to first order; 0 tries all",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(8 + _tried(self.channels, subject, layer), 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        found = run.layer_gradients()
        check_alive(found.grad, run.layer)
        picked = _most_telling(found, self.channels)
        answers = [_losses(run, found, picked[b], b) for b in range(len(run.x))]
        losses, rows = zip(*answers, strict=True)
        run.extras["tail_rows"] = torch.tensor(rows)
        score = found.score
        weights = torch.stack(losses) / torch.where(score == 0, 1, score)[:, None]
        values = (weights[:, :, None, None] * found.act).sum(1)
        return values.relu() if self.relu else values, score


def _losses(run: Run, found: LayerGradients, picked: Tensor, image: int) -> tuple[Tensor, int]:
    """What the score of one image loses without each channel (K,), and the tail rows it took.

    Channels that are not picked (n,) lose nothing, unless what they lose is known without trying.
    """
    slopes = found.slopes[image]
    key = "ablated", run.layer, tuple(picked.tolist()), image
    tail = None if key in run.cache_scope else Tail(run, image)
    if tail is not None and tail.is_affine(found.score[image], slopes):
        return slopes, tail.rows
    outputs = run.cache_scope.get_or_compute(
        key, lambda: (tail or Tail(run, image)).without(picked)
    )
    left = run.target(outputs, run.owner[image].expand(len(outputs)))
    losses = torch.zeros_like(slopes).scatter(0, picked, found.score[image] - left)
    return losses, tail.rows if tail is not None else 0


def _most_telling(found: LayerGradients, count: int) -> Tensor:
    """Which channels (B, n) count most for the score to first order, in their order; 0 is all."""
    return _largest(found.slopes.abs(), count)


class Tail:
    """What comes after a layer, to be run again on one image with some channels changed.

    Args:
        run: asks for the layer.
        image: which of its images.

    Attributes:
        rows: how many rows went through the tail alone.
    """

    def __init__(self, run: Run, image: int) -> None:
        assert run.layer is not None
        layout = run.subject.layers[run.layer].layout
        assert layout is not None
        self.run, self.layer, self.layout, self.rows = run, run.layer, layout, 0
        self.x, self.owner = run.x[image : image + 1], run.owner[image : image + 1]
        run.progress.expect(1)
        [(_, (self.logits, self.recorded))] = run.stream([(self.x, self.owner)], self._record)
        self.resumes = True
        self.resumes = self._resumes()

    def is_affine(self, score: Tensor, slopes: Tensor) -> bool:
        """Whether the score follows from the slopes (K,) of the channels' factors, tried twice."""
        generator = self.run.generator()
        drawn = 2 * torch.rand((2, len(slopes)), generator=generator) - 1
        factors = drawn.to(slopes)
        outputs = self.outputs([factors], 2)
        found = self.run.target(outputs, self.owner.expand(2))
        steps = (factors - 1) * slopes
        rounding = 4 * torch.finfo(score.dtype).eps * score.abs()
        off = (found - score - steps.sum(1)).abs()
        return bool((off <= AFFINE * steps.abs().sum(1) + rounding).all())

    def without(self, picked: Tensor) -> Tensor:
        """(n, N) the model's outputs without each of the channels picked (n,)."""
        count = self.layout.channels
        chunks = (1 - F.one_hot(some, count).to(self.x.dtype) for some in picked.split(PIECE))
        return self.outputs(chunks, len(picked))

    def outputs(self, factors: Iterable[Tensor], expected: int) -> Tensor:
        """(n, N) the model's outputs with the layer's channels times `factors` (n, K).

        Rows that go through the tail alone are no full rows and not counted as cost.
        """
        run = self.run.derive(cost_counter=CostCounter()) if self.resumes else self.run
        run.progress.expect(expected)
        chunks = ((f[:, :, None, None], self.owner.expand(len(f))) for f in factors)
        found = [out for _, out in run.stream(chunks, self._again, expected=expected)]
        self.rows += expected if self.resumes else 0
        return torch.cat(found)

    def _record(self, rows: Tensor, _owner: Tensor) -> tuple[Tensor, PassUntilLayer]:
        with torch.no_grad(), record_until(self.run.subject.model, self.layer) as recorded:
            logits = self.run.logits(rows)
        return logits, recorded

    def _again(self, factors: Tensor, _owner: Tensor) -> Tensor:
        output = self.recorded.output.repeat(len(factors), *[1] * (self.recorded.output.ndim - 1))
        self.layout.to_nchw(output).mul_(factors)
        with torch.no_grad(), resume_after(self.recorded, output):
            return self.run.logits(self.x.expand(len(factors), -1, -1, -1))

    def _resumes(self) -> bool:
        """Whether resuming with nothing changed gives the outputs, if need be with copies.

        Otherwise the record is emptied, and all is run anew but for the layer's output.
        """
        for copies in (False, True):
            self.recorded.copies = copies
            if self._gives_the_same():
                return True
        self.recorded.calls.clear()
        return False

    def _gives_the_same(self) -> bool:
        same = torch.ones((2, self.layout.channels)).to(self.x)
        try:
            found = self.outputs([same], 2)
        except ModelFailure:  # one row handed out as several is changed in place, or reshaped
            return False
        return bool((found - self.logits).abs().amax() <= 1e-4 * self.logits.abs().amax())

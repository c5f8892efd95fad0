"""Class activation maps whose weights are measured by masking: Score-CAM and Ablation-CAM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.errors import ModelFailure, NotApplicableError
from core.methods.base import Method, register
from core.methods.cam import CAM_PROPERTIES, note_limits
from core.methods.outliers import MaskOutliers, outlying_tokens, report_outliers, without
from core.models.default_layer import SMALLEST_GRID
from core.runtime.batching import Chunk, CostCounter
from core.runtime.layer_outputs import LayerGradients
from core.runtime.resume import PassUntilLayer, record_until, resume_after
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.outputs import Outputs, joined
from core.types import Cost, Need, Property

AFFINE_TOLERANCE = 1e-5
"""How far a score may be from affine in the channels, relative to the channels' contributions."""
UNIFORM_TOLERANCE = 1e-6
"""A Score-CAM that differs from the mean of the channels by less than this share does not depend on
the target."""
FEWEST = 16
"""Channels before the first partial map."""
CHANNELS_PER_CHUNK = 16
"""Channels masked at a time, before chunks are merged or split to fit into memory."""

Relu = Field(
    True,
    title="ReLU",
    description="Show only evidence for the target (values above 0); off shows both signs",
)


def most_varied(act: Tensor, count: int) -> Tensor:
    """Indices (B, n) of the channels with the largest spatial variance, in ascending order.

    Args:
        act: (B, K, h, w) the activation.
        count: how many channels; 0 for all.
    """
    return _largest(act.flatten(2).var(2, correction=0), count)


def most_varied_first(act: Tensor, count: int) -> Tensor:
    """The channels of `most_varied`, those with the largest variance first."""
    spread = act.flatten(2).var(2, correction=0)
    order: Tensor = spread.argsort(stable=True, dim=1, descending=True)
    return order[:, :count] if count else order


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Indices (B, n) of the `count` largest of `sizes` (B, K), in ascending order; 0 for all."""
    total = sizes.shape[1]
    if not 0 < count < total:
        return torch.arange(total, device=sizes.device).expand(len(sizes), -1)
    return sizes.topk(count, dim=1).indices.sort(1).values


def _masked_channels(channels: int, subject: Subject, layer: str | None) -> int:
    """How many channels of a layer are masked if `channels` are requested; 0 requests all."""
    layout = subject.layers[layer].layout if layer is not None else None
    available = layout.channels if layout is not None else 0
    return min(channels, available) if channels else available


# -- Score-CAM ----------------------------------------------------------------------------------


@register(
    "scorecam",
    label="Score-CAM",
    family="cam",
    about="Best for a CAM without gradients; not for quick answers, it takes one pass per channel.",
    paper="arXiv:1910.01279",
    needs=[Need.LAYER],
    properties=CAM_PROPERTIES,
)
class ScoreCAM(Method):
    """Channels weighted by the score of the input masked by them (Wang et al., 2020).

    Each channel is upsampled to the input size, with its corners on the corners of the input,
    scaled to the range 0 to 1, and multiplied with the input. The weights are the softmax over the
    scores of these masked inputs. Constant channels mask everything and share one pass. Another
    target at the same layer takes no further pass. Fewer `channels` make the map approximate: on
    EfficientNet-Lite0 and two photographs, 16, 64 and 256 of 1,280 channels gave maps whose
    correlation with the exact map is at least 0.94, 0.99 and 0.9999.
    """

    relu: bool = Relu
    channels: int = Field(
        0,
        ge=0,
        le=8192,
        title="Channels (fewer is approximate)",
        description="Number of channels to use, those with the largest variance; 0 uses all and is "
        "exact. In a test, 64 of 1,280 gave a correlation of 0.99 with the exact map",
    )
    mask_outliers: bool = MaskOutliers

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(_masked_channels(self.channels, subject, layer) + 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        act = run.activation()
        outliers = outlying_tokens(run, act)
        act = without(act, outliers) if self.mask_outliers else act
        picked = most_varied_first(act, self.channels)
        picked = picked[:, : run.samples(picked.shape[1], "channels", FEWEST)]
        act = act.gather(1, picked[:, :, None, None].expand(-1, -1, *act.shape[2:]))
        score = run.score()
        varies = act.amax((2, 3)) > act.amin((2, 3))  # (B, n)
        has_constant = ~varies.all(1)
        counts = (varies.sum(1) + has_constant).tolist()
        seen: list[Tensor] = []

        def watch(scores: Tensor) -> None:
            seen.append(scores)
            done = sum(map(len, seen))
            if FEWEST <= done <= int(varies[0].sum()):
                run.paint(done, lambda: self._so_far(torch.cat(seen), act[:, :done]))

        found = run.scores(
            self._copies(run, act, varies),
            sum(counts),
            ("scorecam", self.channels, act.shape[1], self.mask_outliers, run.layer),
            watch,
        )
        rows = []
        for varying, scores in zip(varies, found.split(counts), strict=True):
            row = scores[-1].repeat(len(varying))  # the last score is that of constant channels
            row[varying] = scores[: int(varying.sum())]
            rows.append(row)
        weights = torch.stack(rows).softmax(1)
        values = (weights[:, :, None, None] * act).sum(1)
        report_outliers(run, values, outliers)
        uniform = act.mean(1)
        note_limits(run, act)
        if (
            act.shape[1] > 1
            and min(act.shape[2:]) >= SMALLEST_GRID
            and (
                (values - uniform).abs().amax((1, 2))
                <= UNIFORM_TOLERANCE * uniform.abs().amax((1, 2))
            ).any()
        ):
            raise NotApplicableError(
                f"Score-CAM gives all channels of {run.layer!r} the same weight, because masking "
                "the picture with them does not change this score; choose another method or layer"
            )
        return values.relu() if self.relu else values, score

    def _so_far(self, scores: Tensor, act: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map of one image by its most varied channels, and its standard error.

        The error is that of a mean with these weights, if the channels were drawn at random.

        Args:
            scores: (n,) of the image masked by each channel.
            act: (1, n, h, w) the channels.
        """
        weights = scores.softmax(0)[None, :, None, None]
        values = (weights * act).sum(1)
        error = (weights * (act - values[:, None])).square().sum(1).sqrt()
        return values.relu() if self.relu else values, {"standard_error": error}

    def _copies(self, run: Run, act: Tensor, varies: Tensor) -> Iterator[Chunk]:
        """Masked copies of each image; one black copy stands for all its constant channels."""
        for image, owner in enumerate(run.owner):
            x = run.x[image : image + 1]
            for chunk in act[image][varies[image]].split(CHANNELS_PER_CHUNK):
                yield x * self._masks(chunk, x)[:, None], owner.expand(len(chunk))
            if not varies[image].all():
                yield torch.zeros_like(x), owner[None]

    def _masks(self, channels: Tensor, x: Tensor) -> Tensor:
        """Channels (n, h, w) upsampled to the input and scaled to 0 to 1: (n, H, W)."""
        size = tuple(x.shape[2:])
        masks = F.interpolate(channels[:, None], size=size, mode="bilinear", align_corners=True)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        return ((masks - low) / (high - low + 1e-8))[:, 0]


# -- Ablation-CAM -------------------------------------------------------------------------------


@register(
    "ablationcam",
    label="Ablation-CAM",
    family="cam",
    about="Best for measured effects of removing channels; not for layers before a layer "
    "normalisation or for negative scores.",
    paper="10.1109/WACV45572.2020.9093360",
    needs=[Need.LAYER],
    properties=[Property.CLASS_SENSITIVE, Property.NONNEGATIVE],
)
class AblationCAM(Method):
    """Channels weighted by the relative drop of the score without them (Desai & Ramaswamy, 2020).

    The weight of channel k is (y - y_k) / y, where y is the score and y_k is the score with the
    channel set to zero; if y is 0, the weight is y - y_k. If the score is an affine function of the
    channels, as before global average pooling and a linear head, every y_k follows from one
    gradient; this is tested on each image. Otherwise only the modules after the layer are run
    again. These partial passes are not counted as cost; `extras["tail_rows"]` holds their number
    for each image. If a model cannot be resumed at the layer, full passes are made and counted.
    With fewer `channels`, the others get the weight 0, except where the score is affine. A model
    without gradients is explained too, from passes alone.
    """

    relu: bool = Relu
    channels: int = Field(
        0,
        ge=0,
        le=8192,
        title="Channels (fewer is approximate)",
        description="Number of channels to remove, those with the largest first-order effect on "
        "the score, or without a gradient those that vary most; 0 removes each of them",
    )
    mask_outliers: bool = MaskOutliers

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(8 + _masked_channels(self.channels, subject, layer), 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        found = _gradients_if_any(run)
        act = run.activation() if found is None else found.act
        score = run.score() if found is None else found.score
        note_limits(run, act, None if found is None else found.grad)
        picked = (
            most_varied(act, self.channels)
            if found is None
            else _most_relevant(found, self.channels)
        )
        slopes = None if found is None else found.slopes
        answers = [_losses(run, score, slopes, picked[b], b) for b in range(len(run.x))]
        losses, rows = zip(*answers, strict=True)
        run.extras["tail_rows"] = torch.tensor(rows)
        weights = torch.stack(losses) / torch.where(score == 0, 1, score)[:, None]
        values = (weights[:, :, None, None] * act).sum(1)
        outliers = outlying_tokens(run, act)
        report_outliers(run, values, outliers)
        values = without(values, outliers) if self.mask_outliers else values
        return values.relu() if self.relu else values, score


def _gradients_if_any(run: Run) -> LayerGradients | None:
    """Activation and gradient of the layer; None if the score has no gradient there."""
    try:
        return run.layer_gradients()
    except NotApplicableError:  # if the layer itself is at fault, reading its activation says so
        return None


def _losses(
    run: Run, score: Tensor, slopes: Tensor | None, picked: Tensor, image: int
) -> tuple[Tensor, int]:
    """The drop of one image's score without each channel (K,), and the number of partial passes.

    Channels that are not in `picked` (n,) get 0, unless the score is affine in the channels, which
    can be told if the derivatives `slopes` (B, K) with respect to factors on them are known.
    """
    key = "ablated", run.layer, tuple(picked.tolist()), image
    tail = None if key in run.cache_scope else Tail(run, image)
    if slopes is not None and tail is not None and tail.is_affine(score[image], slopes[image]):
        return slopes[image], tail.rows
    outputs = run.cache_scope.get_or_compute(
        key, lambda: (tail or Tail(run, image)).without(picked)
    )
    left = run.target(outputs, run.owner[image].expand(len(outputs)))
    channels = _masked_channels(0, run.subject, run.layer)
    losses = torch.zeros(channels).to(left).scatter(0, picked, score[image] - left)
    return losses, tail.rows if tail is not None else 0


def _most_relevant(found: LayerGradients, count: int) -> Tensor:
    """Indices (B, n) of the channels with the largest first-order effect; 0 for all."""
    return _largest(found.slopes.abs(), count)


class Tail:
    """The modules after a layer, run again on one image with some channels scaled.

    Args:
        run: the run; its layer is where the model is resumed.
        image: index of the image in the run's batch.

    Attributes:
        rows: number of rows that went only through the modules after the layer.
    """

    def __init__(self, run: Run, image: int) -> None:
        assert run.layer is not None
        layout = run.subject.layers[run.layer].layout
        assert layout is not None
        self.run, self.layer, self.layout, self.rows = run, run.layer, layout, 0
        self.x, self.owner = run.x[image : image + 1], run.owner[image : image + 1]
        run.progress.expect(1)
        [(_, (self.whole, self.recorded))] = run.stream([(self.x, self.owner)], self._record)
        self.resumes = True
        self.resumes = self._can_resume()

    def is_affine(self, score: Tensor, slopes: Tensor) -> bool:
        """Whether the score is affine in the channels' factors, tested at two random points.

        Args:
            score: the unchanged score.
            slopes: (K,) derivatives of the score with respect to a factor on each channel.
        """
        generator = self.run.generator()
        drawn = 2 * torch.rand((2, len(slopes)), generator=generator) - 1
        factors = drawn.to(slopes)
        outputs = self.outputs([factors], 2)
        found = self.run.target(outputs, self.owner.expand(2))
        steps = (factors - 1) * slopes
        rounding = 4 * torch.finfo(score.dtype).eps * score.abs()
        off = (found - score - steps.sum(1)).abs()
        return bool((off <= AFFINE_TOLERANCE * steps.abs().sum(1) + rounding).all())

    def without(self, picked: Tensor) -> Outputs:
        """The model's outputs with one of the channels in `picked` (n,) set to zero each."""
        count = self.layout.channels
        chunks = (
            1 - F.one_hot(some, count).to(self.x.dtype) for some in picked.split(CHANNELS_PER_CHUNK)
        )
        return self.outputs(chunks, len(picked))

    def outputs(self, factors: Iterable[Tensor], expected: int) -> Outputs:
        """The model's outputs with the layer's channels times `factors` (n, K).

        Rows that go through the tail alone are no full rows and not counted as cost.
        """
        run = self.run.derive(cost_counter=CostCounter()) if self.resumes else self.run
        run.progress.expect(expected)
        chunks = ((f[:, :, None, None], self.owner.expand(len(f))) for f in factors)
        found = [out for _, out in run.stream(chunks, self._resume_with, expected=expected)]
        self.rows += expected if self.resumes else 0
        return joined(found)

    def _record(self, rows: Tensor, _owner: Tensor) -> tuple[Outputs, PassUntilLayer]:
        subject, call = self.run.subject, self.run.subject.layers[self.layer].call
        with torch.no_grad(), record_until(subject.model, self.layer, call) as recorded:
            outputs = self.run.forward(rows)
        return outputs, recorded

    def _resume_with(self, factors: Tensor, _owner: Tensor) -> Outputs:
        output = self.recorded.output.repeat(len(factors), *[1] * (self.recorded.output.ndim - 1))
        self.layout.to_nchw(output).mul_(factors)
        with torch.no_grad(), resume_after(self.recorded, output):
            return self.run.forward(self.x.expand(len(factors), -1, -1, -1))

    def _can_resume(self) -> bool:
        """Whether resuming with nothing changed gives the outputs, if need be with copies.

        Otherwise the record is emptied, and all is run anew but for the layer's output.
        """
        for copies in (False, True):
            self.recorded.copies = copies
            if self._reproduces_outputs():
                return True
        self.recorded.calls.clear()
        return False

    def _reproduces_outputs(self) -> bool:
        unchanged = torch.ones((2, self.layout.channels)).to(self.x)
        try:
            found = self.outputs([unchanged], 2)
        except ModelFailure:  # one row handed out as several is changed in place, or reshaped
            return False
        return bool((found.change(self.whole) <= 1e-4 * self.whole.magnitude()).all())

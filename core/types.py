"""Results and other types that all packages share; they know no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError, WayOut
from core.result import Result

if TYPE_CHECKING:
    from PIL.Image import Image


class Need(StrEnum):
    """What a method needs of a model; `ModelHandle.supports` says what a model has."""

    GRADIENT = "gradient"
    """The output is differentiable with respect to the input."""
    LAYER = "layer"
    """Some layer's output lies on a spatial grid."""
    ATTENTION = "attention"
    """Softmax attention maps can be laid over the picture."""


class Property(StrEnum):
    """A promise a method makes; the tests check it on every model that can run the method."""

    COMPLETE = "complete"
    """The map sums to f(x) - f(baseline), up to the reported completeness error."""
    EFFICIENT = "efficient"
    """Shapley's axiom: the map sums to f(x) - f(background), as the efficiency error shows."""
    LINEAR_EXACT = "linear_exact"
    """On a linear model the map is the exact contribution of each pixel."""
    CLASS_SENSITIVE = "class_sensitive"
    """With default parameters another class gives another map: on every trained model that can run
    the method, maps of the classes that it thinks likeliest have a mean rank correlation below 0.9.
    Withheld where that fails on any model, even if the map differs a little between classes. How
    well the map tells objects apart is measured in docs/ground_truth.md."""
    LOCALISES = "localises"
    """Where the evidence is known, more of the map lies on it than of the random, edge and centre
    controls, on average and on every model of the synthetic scenes that can run the method."""
    NONNEGATIVE = "nonnegative"
    """With default parameters no value is below zero."""
    MODEL_FREE = "model_free"
    """The map does not depend on the model at all: a control."""


class Group(StrEnum):
    """What registered classes are sorted by: families of methods, categories of metrics.

    Members are strings, and stand in the order in which they are offered.

    Attributes:
        label: the name people read.
        description: one sentence on what the members of the group have in common.
    """

    label: str
    description: str

    def __new__(cls, value: str, label: str = "", description: str = "") -> Self:
        """A member from ``NAME = value, label, description``."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.label, member.description = label, description
        return member

    @property
    def order(self) -> int:
        """The position among the groups, from 0."""
        return list(type(self)).index(self)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an answer cost.

    Attributes:
        forward: rows (images, copies of images) sent forward through the model.
        backward: rows whose score was differentiated.
        seconds: wall-clock time.
        peak_bytes: most accelerator memory in use beyond what was in use before; None on the CPU,
            where it cannot be told apart from the rest of the process.
    """

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None

    def __add__(self, other: Cost) -> Cost:
        """The cost of one answer after another.

        >>> Cost(1, 1, 0.5) + Cost(400, peak_bytes=7)
        Cost(forward=401, backward=1, seconds=0.5, peak_bytes=7)
        """
        peaks = [one.peak_bytes for one in (self, other) if one.peak_bytes is not None]
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.seconds + other.seconds,
            max(peaks, default=None),
        )

    @property
    def pace(self) -> Literal["instant", "seconds", "minutes"]:
        """How long it takes on a laptop's CPU.

        A backward pass counts as two forward passes, and ten forward passes as one second.

        >>> Cost(1, 1).pace, Cost(52, 50).pace, Cost(1, seconds=40).pace, Cost(4000).pace
        ('instant', 'seconds', 'seconds', 'minutes')
        """
        passes = self.forward + 2 * self.backward + 10 * self.seconds
        return "instant" if passes <= 6 else "seconds" if passes <= 600 else "minutes"


Format = Literal["NCHW", "NHWC", "NLC"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a layer's output lies on the picture.

    Attributes:
        format: `NCHW`, `NHWC`, or `NLC` (tokens).
        grid: height and width of the spatial grid.
        channels: number of channels.
        prefix: tokens before the grid's (class, distillation, registers); 0 unless `NLC`.
        class_token: whether the first prefix token is a class token.
    """

    format: Format
    grid: tuple[int, int]
    channels: int
    prefix: int = 0
    class_token: bool = False

    @property
    def tokens(self) -> int:
        """Number of tokens, or of cells where there is no prefix."""
        return self.prefix + self.grid[0] * self.grid[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image's output."""
        if self.format == "NLC":
            return self.tokens, self.channels
        return (self.channels, *self.grid) if self.format == "NCHW" else (*self.grid, self.channels)

    def to_nchw(self, output: Tensor) -> Tensor:
        """A layer's output as (B, K, h, w), prefix tokens left out; a view where possible."""
        if self.format == "NCHW":
            return output
        if self.format == "NHWC":
            return output.permute(0, 3, 1, 2)
        cells: Tensor = output[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)
        return cells


@dataclass(frozen=True, slots=True)
class Layer:
    """One module of a model.

    Attributes:
        name: the name in ``model.named_modules()``.
        kind: the class name.
        layout: how the output lies on the picture; None if it does not.
        stage: whether the layer ends one of the model's stages; these are offered first.
        call: which of its calls in one forward pass `layout` is about, counted from 0.
        layouts: the layout of every call; None for a call that sees the picture mirrored, turned or
            cropped, or that does not lie on it.
        reason: why the output does not lie on the picture, where more is known than its shape.
    """

    name: str
    kind: str
    layout: Layout | None = None
    stage: bool = False
    call: int = 0
    layouts: tuple[Layout | None, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class TokenMap:
    """Maps rows or columns of grouped attention maps (windows, pooled keys) to tokens.

    Attributes:
        slot: (n,) index of a row or column, counted group by group.
        token: (n,) index of the token it belongs to; prefix tokens come first.
    """

    slot: Tensor
    token: Tensor

    def spread(self, values: Tensor, tokens: int) -> Tensor:
        """(B, tokens) from `values` (B, slots): each slot's value is divided among its tokens."""
        shared = values[:, self.slot] / self.slot.bincount()[self.slot].to(values)
        return values.new_zeros(len(values), tokens).index_add(1, self.token, shared)

    def mean(self, values: Tensor, tokens: int) -> Tensor:
        """(B, tokens) from `values` (B, slots): the mean over the slots of each token."""
        split = values[:, self.slot] / self.token.bincount()[self.token].to(values)
        return values.new_zeros(len(values), tokens).index_add(1, self.token, split)

    def gather(self, values: Tensor, slots: int) -> Tensor:
        """(B, slots) from `values` (B, T): each token's value is divided among its slots."""
        split = values[:, self.token] / self.token.bincount()[self.token].to(values)
        return values.new_zeros(len(values), slots).index_add(1, self.slot, split)


def grouped(weights: Tensor, images: int, axis: int = 1) -> Tensor:
    """Grouped attention maps in one layout: (B, heads, groups, queries, keys).

    Args:
        weights: with five axes, of which `axis` is the heads'; or with four, where the groups are
            part of the batch: (B * groups, heads, queries, keys).
        images: B.
        axis: the axis of the heads, 1 or 2.
    """
    if weights.ndim == 5:
        return weights if axis == 1 else weights.transpose(1, 2)
    split: Tensor = weights.unflatten(0, (images, -1))
    return split.transpose(1, 2)


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """A module that computes softmax attention.

    Attributes:
        name: the module's name.
        heads: number of heads.
        tokens: number of query tokens.
        layout: how the key tokens lie on the picture; None where they do not (attention among
            channels, for example), and then `reason` says why.
        reason: why the maps cannot be laid over the picture; empty if they can.
        keys: tokens of the columns of grouped maps; None if the maps are (B, heads, T, T) over all
            tokens in order.
        queries: tokens of the rows of grouped maps.
        query_layout: how the query tokens lie on the picture, where it differs from `layout`.
        axis: the axis of the heads in its maps.
    """

    name: str
    heads: int
    tokens: int
    layout: Layout | None
    reason: str = ""
    keys: TokenMap | None = None
    queries: TokenMap | None = None
    query_layout: Layout | None = None
    axis: int = 1

    def propagate(self, row: Tensor, weights: Tensor) -> Tensor:
        """Propagates query weights to the keys: row^T A.

        Args:
            row: (B, T) a weight for each query token.
            weights: the attention (B, T, T) or, of grouped maps, (B, groups, queries, keys).

        Returns:
            (B, T) a weight for each key token.
        """
        if self.keys is None or self.queries is None:
            return torch.einsum("bq,bqk->bk", row, weights)
        assert self.layout is not None
        _, groups, queries, _ = weights.shape
        held = self.queries.gather(row, groups * queries).unflatten(1, (groups, queries))
        received = torch.einsum("bgq,bgqk->bgk", held, weights).flatten(1)
        return self.keys.spread(received, self.layout.tokens)

    def attended(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Propagates several weightings of the query tokens to the keys, head by head.

        Args:
            rows: (n, T) a weight for each query token.
            weights: the attention of one image, (heads, T, T) or, of grouped maps, (heads, groups,
                queries, keys).

        Returns:
            (heads, n, T) a weight for each key token.
        """
        if self.keys is None or self.queries is None:
            return rows @ weights
        assert self.layout is not None
        _, groups, queries, _ = weights.shape
        held = self.queries.gather(rows, groups * queries).unflatten(1, (groups, queries))
        received = torch.einsum("ngq,hgqk->hngk", held, weights).flatten(2)
        return torch.stack([self.keys.spread(head, self.layout.tokens) for head in received])

    def row_sums(self, weights: Tensor) -> Tensor:
        """(B, T) the sum of each query token's attention; `weights` as for `propagate`."""
        sums = weights.sum(-1)
        if self.queries is None:
            return sums
        assert self.layout is not None
        return self.queries.mean(sums.flatten(1), (self.query_layout or self.layout).tokens)


OutputKind = Literal["class", "output", "feature"]
"""What one number of a model's outputs stands for: a class or tag; a number that is predicted; or a
feature of a model without classes."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction(Result):
    """What a model says of a batch of pictures.

    Attributes:
        scores: (B, N) raw outputs: logits, numbers, or features.
        values: (B, N) what a person reads: probabilities where `bounded`, else the numbers.
        labels: names of the outputs in order; None if unknown.
        kind: what one output stands for.
        activation: the key of what turned scores into values.
        unit: of numbers, the unit if it is known.
        bounded: whether the values are probabilities, from 0 to 1.
        exclusive: whether the classes exclude each other, so that probabilities add up to 1.
    """

    scores: Tensor
    values: Tensor
    labels: Sequence[str] | None = None
    kind: OutputKind = "class"
    activation: str = "softmax"
    unit: str = ""
    bounded: bool = True
    exclusive: bool = True

    @property
    def probabilities(self) -> Tensor:
        """(B, N) the probability of each class.

        Raises:
            NotApplicableError: the outputs are numbers or features.
        """
        if not self.bounded:
            raise NotApplicableError(
                f"the outputs are {self.kind}s without probabilities; read `values`, or load the "
                "model with activation='softmax' or 'sigmoid'"
            )
        return self.values

    @property
    def certainty(self) -> Tensor:
        """(B,) the largest probability; zeros where there are none."""
        return self.values.amax(1) if self.bounded else torch.zeros(len(self.values))

    def label(self, index: int) -> str:
        """The name of an output; "class 3" where names are unknown, or "feature 3"."""
        if self.labels is not None and index < len(self.labels):
            return self.labels[index]
        return f"{self.kind} {index}"

    def text(self, value: float) -> str:
        """A value as people read it: in per cent where it is a probability, else with its unit."""
        return f"{value:.1%}" if self.bounded else f"{value:.4g} {self.unit}".rstrip()

    def top(self, k: int = 5, image: int = 0) -> list[tuple[int, str, float]]:
        """The `k` most likely classes of one image as (index, label, probability).

        For a model without classes the `k` largest features as (index, label, value); for a
        regression its first `k` numbers, in the model's order.
        """
        values = self.values[image]
        count = min(k, len(values))
        order = range(count) if self.kind == "output" else values.topk(count).indices.tolist()
        return [(int(i), self.label(int(i)), float(values[i])) for i in order]

    def main_class(self, image: int = 0) -> int:
        """The output of one image that is explained where none is named."""
        return self.top(1, image)[0][0]

    def describe(self, image: int = 0) -> str:
        """What the model says first of one image, such as "tabby (52.3%)".

        >>> Prediction(torch.zeros(1, 2), torch.tensor([[0.25, 0.75]])).describe()
        'class 1 (75.0%)'
        """
        ((_, label, value),) = self.top(1, image)
        return f"{label} ({self.text(value)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PercentileRank(Result):
    """The rank of maps among random maps, by one metric.

    Attributes:
        value: (B,) the maps' own scores.
        others: (n, B) the scores of random maps.
        percentile: (B,) per cent of random maps that score worse; scores that are equal up to
            rounding errors count half. NaN where a score says nothing.
    """

    value: Tensor
    others: Tensor
    percentile: Tensor

    @classmethod
    def among(cls, own: Score, others: Tensor, *, higher_is_better: bool) -> PercentileRank:
        """The rank of a score among those (n, B) of random maps."""
        sign = 1 if higher_is_better else -1
        noise = torch.zeros_like(own.value) if own.noise is None else own.noise
        level = (own.value - others).abs() <= noise
        above = (sign * (own.value - others) > 0) & ~level
        untold = torch.tensor([bool(own.reason(image)) for image in range(len(own.value))])
        percentile = 100 * (above + level / 2).mean(0)
        return cls(own.value, others, percentile.where(~untold, torch.nan))


def upsample(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) interpolated to `size`, bilinear; unchanged if they have that size.

    >>> from torch import tensor
    >>> upsample(tensor([[[0.0, 1.0]]]), (1, 4))
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


class PictureWords(NamedTuple):
    """What is said of one picture of an attribution.

    Attributes:
        explained: what is explained, such as the label of a class.
        predicted: the model's prediction; empty if explaining did not tell it.
        target: the key of the target for this picture alone.
    """

    explained: str = ""
    predicted: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """What a result keeps of a picture to be displayed with it: a small copy, and a few words.

    Attributes:
        jpeg: the copy as a JPEG file, at most 1024 pixels on the longer side.
        picture: height and width of the picture itself, pixels.
        input: height and width of the model's input, pixels.
        box: left, top, right, bottom of the part that the model saw, in pixels of the picture.
        words: what is said of it.
    """

    jpeg: bytes
    picture: tuple[int, int]
    input: tuple[int, int]
    box: tuple[float, float, float, float]
    words: PictureWords = field(default_factory=PictureWords)

    def saying(self, words: PictureWords) -> ShownPicture:
        """The same picture with these words."""
        return replace(self, words=words)

    @property
    def whole(self) -> bool:
        """Whether the model saw the whole picture."""
        left, top, right, bottom = self.box
        return left <= 0 and top <= 0 and right >= self.picture[1] and bottom >= self.picture[0]


@dataclass(frozen=True, slots=True)
class Partial:
    """How far a map was taken that was stopped before its end, or is still being worked on.

    Attributes:
        done: samples taken.
        of: samples that the method was to take.
        unit: what is counted, such as "masks".

    >>> str(Partial(1200, 4000, "masks"))
    '1,200 of 4,000 masks'
    """

    done: int
    of: int
    unit: str

    def __str__(self) -> str:
        return f"{self.done:,} of {self.of:,} {self.unit}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Attribution(Result):
    """The attributions of one method for a batch of images.

    ``len(answer)`` is the number of images, ``answer[i]`` and ``answer[a:b]`` the attributions of
    some of them, and ``np.asarray(answer)`` the values. `overlay` and `show` draw the map over the
    picture, which a notebook does by itself.

    Attributes:
        values: (B, h, w) float32 on the CPU; raw and signed, never normalised; over the model's
            input, either in its pixels or on a layer's coarser grid.
        score: (B,) the explained score, in the target's unit.
        method: the method's key.
        params: every parameter of the method, defaults included.
        target: the target's key.
        layer: the layer that the method used; None if it uses none.
        cost: what it cost.
        extras: further results by name, such as `completeness_error` (B,).
        pictures: what is displayed of each picture; empty if the values were not computed by an
            `Explainer`.
        partial: how far the map was taken, if the method was stopped before its end; None for a
            map that is finished.

    Two attributions are equal whatever they cost and whatever is displayed with them.
    """

    values: Tensor
    score: Tensor
    method: str
    params: Mapping[str, object]
    target: str = ""
    layer: str | None = None
    cost: Cost = field(default=Cost(), compare=False, repr=False)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: tuple[ShownPicture, ...] = field(default=(), compare=False, repr=False)
    partial: Partial | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.values)

    def __iter__(self) -> Iterator[Attribution]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, images: int | slice) -> Attribution:
        """The attributions of one image, as a batch of one, or of several.

        They share nothing with this one, and cost what all of it cost.

        Raises:
            IndexError: there is no such image.
        """
        if isinstance(images, slice):
            rows = list(range(len(self))[images])
        else:
            rows = [range(len(self))[images]]
        shown = tuple(self.pictures[row] for row in rows) if self.pictures else ()
        return replace(
            self,
            values=self.values[rows],
            score=self.score[rows],
            target=shown[0].words.target if len(shown) == 1 else self.target,
            extras={name: extra[rows] for name, extra in self.extras.items()},
            pictures=shown,
        )

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        """The values; see `numpy.asarray` about `dtype` and `copy`."""
        return np.array(self.values.detach().cpu().numpy(), dtype=dtype, copy=copy)

    def overlay(self, image: int = 0, **options: Any) -> Image:
        """The map over its picture, as a PIL image; see `core.views.notebook.overlay`."""
        drawn: Image = self._views().overlay(self, image, **options)
        return drawn

    def show(self, image: int = 0, **options: Any) -> None:
        """Display `overlay`: in a notebook below the cell, otherwise in a window."""
        self._views().show(self.overlay(image, **options))

    def upsampled(self, size: tuple[int, int]) -> Tensor:
        """The values (B, H, W) interpolated to `size`; see `upsample`."""
        return upsample(self.values, size)

    def noise_share(self, image: int = 0) -> float | None:
        """How much of the differences within a map may be chance; None if that is not known.

        The root mean square of its standard errors, as a share of the standard deviation of its
        values: 0 for a map without chance, 1 for one that may be nothing else.
        """
        errors = self.extras.get("standard_error")
        if errors is None:
            return None
        spread = self.values[image].std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
        return float(errors[image].float().square().mean().sqrt() / spread)

    def facts(self, image: int = 0) -> dict[str, float]:
        """The extras of one image as numbers by name.

        A map of standard errors becomes their mean, as a share of the map's largest value. Other
        maps are left out.
        """
        found = {}
        for name, extra in self.extras.items():
            if extra.ndim == 1:
                found[name] = float(extra[image])
            elif name == "standard_error":
                largest = self.values[image].abs().max().clamp_min(torch.finfo(torch.float32).tiny)
                found[name] = float(extra[image].mean() / largest)
        return found


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Score(Result):
    """The scores of one metric for a batch of maps.

    Attributes:
        value: (B,) the score.
        metric: the metric's key.
        params: every parameter of the metric.
        cost: what it cost.
        curve_x: (s+1,) abscissa of the curve; None if the metric has no curve.
        curve_y: (B, s+1) the curve.
        low: (B,) lower end of the 95% interval, where the value is estimated from a sample.
        high: (B,) upper end of the interval.
        noise: (B,) how much of the value may be rounding: two scores that differ by no more are
            equal. None if it is not known.
        cannot_tell: for each map why its score says nothing, such as that the picture does not
            matter to the model; an empty text where it does say something. Empty if all do.
        notes: for each map what is to be said beside its score; empty if there is nothing.
        advice: for each map what to do about a bad score, as a clause; empty if there is nothing.
    """

    value: Tensor
    metric: str
    params: Mapping[str, object]
    cost: Cost = field(default=Cost(), compare=False, repr=False)
    curve_x: Tensor | None = None
    curve_y: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    noise: Tensor | None = None
    cannot_tell: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def reason(self, image: int = 0) -> str:
        """Why the score of one map says nothing; an empty text if it does say something."""
        told = self.cannot_tell[image] if self.cannot_tell else ""
        return told or ("the score is not a number" if bool(self.value[image].isnan()) else "")

    def noise_of(self, image: int = 0) -> float:
        """How much of the score of one map may be rounding; 0 if it is not known."""
        return 0.0 if self.noise is None else float(self.noise[image])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Comparison(Result):
    """Several methods' answers to one question.

    Attributes:
        results: by the configuration's name, the attribution of each method that could answer, in
            the order asked.
        errors: for each other method, the reason.
        ways_out: for those of them that know any, changes that help, the best first.
    """

    results: Mapping[str, Attribution]
    errors: Mapping[str, str]
    ways_out: Mapping[str, Sequence[WayOut]] = field(default_factory=dict)

    def overlays(self, image: int = 0, *, shared: bool = False, **options: Any) -> dict[str, Image]:
        """Each map over its picture, by the configuration's name; see `Attribution.overlay`.

        Args:
            image: which picture.
            shared: whether all maps have one range of colours.
            **options: those of `Attribution.overlay`.
        """
        drawn: dict[str, Image] = self._views().overlays(self, image, shared=shared, **options)
        return drawn


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CurveStep(Result):
    """One step of a removal curve.

    Attributes:
        fraction: share of the pixels that have been removed or restored, 0 to 1.
        pixels: (B, C, H, W) what the model was shown, in pixel values from 0 to 1.
        prediction: what the model predicted.
    """

    fraction: float
    pixels: Tensor
    prediction: Prediction


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinity, which JSON does not know."""
    return value if math.isfinite(value) else None

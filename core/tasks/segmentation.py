"""Segmentation: a score of each class for each pixel, and what can be asked about regions.

>>> from core.tasks.region import Region
>>> values = torch.tensor([[[[1.0, 2.0]], [[5.0, 3.0]]]])  # two classes on a grid of 1 x 2 cells
>>> left = Region(torch.tensor([[[True, False]]]), "on the left")
>>> RegionScore(1, left)(DenseScores(values, (1, 2)), torch.tensor([0]))
tensor([5.])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError, RegionError, UnknownNameError
from core.tasks.activation import SIGMOID, SOFTMAX, Activation
from core.tasks.base import Combination, Explained, PerImage, Target, Task
from core.tasks.classification import (
    ClassProbability,
    ClassScore,
    check_class,
    several_of,
    to_target,
)
from core.tasks.outputs import DenseScores, Outputs
from core.tasks.region import PREDICTED, InRegion, Region, RegionLike, find_region
from core.types import OutputKind, Prediction

NOTHING = -1
"""In a predicted mask, pixels of no class: where no probability is above one half."""
BACKGROUND = frozenset({"background", "__background__"})
"""Labels of the class that is explained only where nothing else is predicted, or if it is asked."""


def dense_of(outputs: Outputs) -> DenseScores:
    """The outputs of a segmenter.

    Raises:
        UnknownNameError: they are another task's.
    """
    if not isinstance(outputs, DenseScores):
        raise UnknownNameError("a region is explained, and the outputs are no maps of scores")
    return outputs


def probabilities_of(scores: Tensor, activation: Activation) -> Tensor:
    """The probabilities (n, N, h, w) of scores of that shape."""
    rows = scores.movedim(1, -1)
    return activation(rows.flatten(0, 2)).reshape(rows.shape).movedim(-1, 1)


def overlaps(activation: Activation, classes: int) -> bool:
    """Whether each class has a mask of its own, so that a pixel may have several or none."""
    return classes == 1 or activation.key == SIGMOID.key


def _upsampled(outputs: DenseScores, image: int) -> Tensor:
    """(1, N, H, W) the scores of one image at every pixel of the model's input."""
    scores = outputs.values[image : image + 1].detach().float()
    if tuple(scores.shape[2:]) == tuple(outputs.size):
        return scores
    return F.interpolate(scores, size=outputs.size, mode="bilinear", align_corners=False)


def class_masks(outputs: DenseScores, activation: Activation, index: int) -> Tensor:
    """(n, H, W) True at the pixels that are predicted as a class, on the CPU."""
    found = []
    for image in range(len(outputs)):
        scores = _upsampled(outputs, image)
        if overlaps(activation, scores.shape[1]):
            mask = activation(scores[:, index].reshape(-1, 1)).reshape(outputs.size) > 0.5
        else:
            mask = scores[0].argmax(0) == index
        found.append(mask.cpu())
    return torch.stack(found)


@dataclass(frozen=True)
class RegionScore(Target):
    """The mean score of a class over a region, before the activation.

    Attributes:
        index: the class; None for the one with the highest mean score in the region.
        region: where. Until the pictures are known, what was asked for: see `RegionLike`.
        of: the class whose predicted region is meant by "predicted"; None for `index`.
        activation: the model's; None where it is not settled yet, and then a softmax.
    """

    index: int | None
    region: Region | RegionLike = PREDICTED
    of: int | None = None
    activation: Activation | None = None

    @property
    def unit(self) -> str:  # type: ignore[override]
        return (self.activation or SOFTMAX).unit

    @property
    def key(self) -> str:
        where = self.region.key if isinstance(self.region, Region) else str(self.region)
        predicted = "" if self.of is None or isinstance(self.region, Region) else f":{self.of}"
        return f"{self.unit}:{'' if self.index is None else self.index}@{where}{predicted}"

    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        dense = dense_of(outputs)
        assert isinstance(self.region, Region)
        assert self.index is not None
        return self.region.mean(self._maps(dense, self.index), dense.size, owner)

    def _maps(self, outputs: DenseScores, index: int) -> Tensor:
        """(n, h, w) what is averaged."""
        return outputs.values[:, index]

    def bounded(self) -> Target | None:
        return RegionProbability(self.index, self.region, self.of, self.activation)

    def under(self, activation: Activation) -> Target:
        return self if self.activation is not None else replace(self, activation=activation)

    def with_classes(self, find: Callable[[int], int]) -> Target:
        if isinstance(self.region, Region):
            raise UnknownNameError(
                "a region of one model's picture is not one of another's; ask each model about it"
            )
        index, of = (None if one is None else find(one) for one in (self.index, self.of))
        return replace(self, index=index, of=of, activation=None)

    def fixed(self, explained: Explained) -> Target:
        if isinstance(self.region, Region):
            return self
        predicted = isinstance(self.region, str) and self.region == PREDICTED
        if self.index is None:
            return self._of_some_class(explained, predicted)
        if predicted:
            region = self._predicted(explained, self.index if self.of is None else self.of)
        else:
            region = find_region(self.region, explained)
        return replace(self, region=region, of=None)

    def _of_some_class(self, explained: Explained, predicted: bool) -> Target:
        """The question about the largest class, or about the one with the highest score there."""
        outputs = dense_of(explained.outputs()).select(torch.tensor(explained.images)).detach()
        activation = self.activation or SOFTMAX
        if predicted:
            task = Segmentation(activation, outputs.size, explained.labels)
            found = [regions_of(one)[0] for one in each_of(task.default_target(outputs))]
            return together([replace(self, index=o.index, region=o.region) for o in found])
        region, maps = find_region(self.region, explained), outputs.values
        owner = torch.arange(len(maps))
        means = [region.mean(maps[:, c], outputs.size, owner) for c in range(maps.shape[1])]
        best = torch.stack(means, 1).argmax(1).tolist()
        return together([replace(self, index=c, region=region.of(i)) for i, c in enumerate(best)])

    def _predicted(self, explained: Explained, index: int) -> Region:
        """The region predicted as a class in the outputs for the pictures themselves."""
        label = _label(explained.labels, index)
        outputs = dense_of(explained.outputs()).select(torch.tensor(explained.images))
        masks = class_masks(outputs, self.activation or SOFTMAX, index)
        for image, mask in zip(explained.images, masks, strict=True):
            if not mask.any():
                raise RegionError(
                    f"{explained.model} predicts no {label!r} in {explained.named(image)}; give "
                    "the region: 'whole', a pixel, a box or a mask"
                )
        return Region(masks, "in its region" if index == self.index else f"in that of {label}")

    def for_image(self, image: int) -> Target:
        found = self.region.of(image) if isinstance(self.region, Region) else self.region
        return replace(self, region=found)

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        label = "the class" if self.index is None else prediction.label(self.index)
        return f"{label} {self.region.text}" if isinstance(self.region, Region) else label

    def check(self, outputs: int, images: int, model: str) -> None:
        for index in (self.index, self.of):
            if index is not None:
                check_class(index, outputs, model)


@dataclass(frozen=True)
class RegionProbability(RegionScore):
    """The mean probability of a class over a region."""

    @property
    def unit(self) -> str:  # type: ignore[override]
        return "probability"

    def _maps(self, outputs: DenseScores, index: int) -> Tensor:
        return probabilities_of(outputs.values, self.activation or SOFTMAX)[:, index]

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return f"p({super().describe(prediction, image)})"


def each_of(target: Target) -> Sequence[Target]:
    """The target of each image; the reverse of `together`."""
    return target.targets if isinstance(target, PerImage) else (target,)


def together(targets: Sequence[Target]) -> Target:
    """One target for as many images as there are targets."""
    return targets[0] if len(targets) == 1 else PerImage(tuple(targets))


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class SegmentationPrediction(Prediction):
    """What a segmenter says of a batch of pictures.

    `values` (B, N) are the shares of the picture that each class takes, as the model sees it, and
    `scores` (B, N) the mean score of each class over the picture.

    Attributes:
        mask: (B, H, W) the class of each pixel of the model's input; `NOTHING` where no class has a
            probability above one half. Where classes may overlap, the likeliest.
        entropy: (B, H, W) how uncertain the model is: the entropy of its probabilities as a share
            of the largest possible, from 0 (certain) to 1.
        margin: (B, H, W) how far the likeliest class is ahead of the next in probability, from 0
            to 1; where each class stands for itself, how far the least certain one is from one
            half, doubled.
        background: the class of what is nothing else, if a label says so; it is explained only
            where nothing else is predicted, or if it is asked for.
    """

    mask: Tensor
    entropy: Tensor
    margin: Tensor
    background: int | None = None

    @property
    def probabilities(self) -> Tensor:
        """None for a whole picture.

        Raises:
            NotApplicableError: always.
        """
        raise NotApplicableError(
            "a segmenter gives a probability for each pixel, none for the picture; read `values` "
            "for the share of the picture that each class takes"
        )

    @property
    def certainty(self) -> Tensor:
        """(B,) 1 without any doubt, 0 where all classes are equally likely at every pixel."""
        return 1 - self.entropy.mean((1, 2))

    def top(self, k: int = 5, image: int = 0) -> list[tuple[int, str, float]]:
        """The largest classes of one image as (index, label, share of the picture).

        At most `k`, and only those that are predicted somewhere; the largest at least.
        """
        shares, order = self.values[image].sort(descending=True, stable=True)
        count = min(k, max(1, int((shares > 0).sum())))
        found = zip(order[:count].tolist(), shares[:count].tolist(), strict=True)
        return [(index, self.label(index), share) for index, share in found]

    def __str__(self) -> str:
        """The largest classes of each image with their shares of it, a line an image."""
        tops = (self.top(image=image) for image in range(len(self.values)))
        return "\n".join(", ".join(f"{label} {share:.1%}" for _, label, share in t) for t in tops)

    def main_class(self, image: int = 0) -> int:
        return largest_class(self.values[image], self.background)

    def describe(self, image: int = 0) -> str:
        """What takes most of one image, such as "road (61.2% of the picture)"."""
        index = int(self.values[image].argmax())
        share = float(self.values[image, index])
        return f"{self.label(index)} ({share:.1%} of the picture)" if share else "nothing"


def largest_class(shares: Tensor, background: int | None) -> int:
    """The class with the largest share of a picture (N,); background only if it is alone.

    >>> largest_class(torch.tensor([0.9, 0.0, 0.1]), 0), largest_class(torch.tensor([1.0, 0.0]), 0)
    (2, 0)
    """
    others = shares.clone()
    if background is not None:
        others[background] = 0
    return int((others if others.any() else shares).argmax())


@dataclass(frozen=True)
class Segmentation(Task):
    """A map of scores for each class and image.

    Attributes:
        activation: what turns scores into probabilities.
        size: height and width of the model's input, pixels.
        labels: names of the classes in order; None if unknown.
        kind: what one map stands for.
    """

    activation: Activation = SOFTMAX
    size: tuple[int, int] = (1, 1)
    labels: Sequence[str] | None = None
    kind: OutputKind = "class"

    @property
    def key(self) -> str:
        return f"segmentation:{self.activation.key}:{self.activation.unit}"

    def read(self, scores: Tensor) -> DenseScores:
        return DenseScores(scores, self.size)

    def blank(self, images: int, classes: int) -> DenseScores:
        return DenseScores(torch.zeros(images, classes, 1, 1), (1, 1))

    def default_target(self, outputs: Outputs) -> Target:
        """Each image's largest class in the region predicted as it; background comes last.

        Raises:
            RegionError: no class is predicted anywhere in an image.
        """
        dense = dense_of(outputs)
        found: list[Target] = []
        for image in range(len(dense)):
            shares = self._predicted(dense, image)[1]
            index = largest_class(shares, self._background)
            if not shares[index]:
                raise RegionError(
                    "no class is predicted anywhere in the picture; explain one in a region that "
                    f"you give, such as InRegion({index}, 'whole')"
                )
            one = dense.select(torch.tensor([image]))
            region = Region(class_masks(one, self.activation, index), "in its region")
            found.append(RegionScore(index, region, activation=self.activation))
        return together(found)

    def to_target(self, target: object, model: str = "the model") -> Target:
        several = several_of(target)
        if several and not isinstance(target, (set, frozenset)):
            return PerImage(tuple(self.to_target(one, model) for one in several))
        asked = target if isinstance(target, InRegion) else InRegion(target)
        if asked.target is None:
            return RegionScore(None, asked.region).under(self.activation)
        found = to_target(asked.target, self.labels, model)
        placed = in_region(found, asked.region, _first_class(found))
        return placed.under(self.activation)

    def predict(self, outputs: Outputs) -> SegmentationPrediction:
        dense = dense_of(outputs).detach()
        found = [self._predicted(dense, image) for image in range(len(dense))]
        masks, shares, means = (torch.stack(parts) for parts in zip(*found, strict=True))
        entropy, margin = uncertainty(dense, self.activation)
        return SegmentationPrediction(
            means,
            shares,
            labels=self.labels,
            activation=self.activation.key,
            exclusive=not overlaps(self.activation, dense.values.shape[1]),
            mask=masks,
            entropy=entropy.cpu(),
            margin=margin.cpu(),
            background=self._background,
        )

    def _predicted(self, outputs: DenseScores, image: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of one image its mask (H, W), and the share and the mean score (N,) of each class."""
        scores = _upsampled(outputs, image)[0]
        mask = scores.argmax(0)
        if overlaps(self.activation, len(scores)):
            on = probabilities_of(scores[None], self.activation)[0] > 0.5
            shares = on.float().mean((1, 2))
            mask = mask.where(on.any(0), NOTHING)
        else:
            shares = mask.flatten().bincount(minlength=len(scores)) / mask.numel()
        return mask.cpu(), shares.float().cpu(), scores.mean((1, 2)).cpu()

    @property
    def _background(self) -> int | None:
        """The class that a label calls background."""
        labels = self.labels or ()
        return next((i for i, one in enumerate(labels) if one.casefold() in BACKGROUND), None)


def uncertainty(outputs: DenseScores, activation: Activation) -> tuple[Tensor, Tensor]:
    """Entropy and margin (n, H, W) of the probabilities; see `SegmentationPrediction`.

    They are computed on the grid of the model's outputs, and interpolated.
    """
    p = probabilities_of(outputs.values.detach().float(), activation)
    if overlaps(activation, p.shape[1]):
        entropy = (torch.special.entr(p) + torch.special.entr(1 - p)).mean(1) / math.log(2)
        margin = (2 * p - 1).abs().amin(1)
    else:
        entropy = torch.special.entr(p).sum(1) / math.log(p.shape[1])
        first, second = p.topk(2, dim=1).values.unbind(1)
        margin = first - second
    maps = torch.stack([entropy, margin], 1).clamp(0, 1)
    if tuple(maps.shape[2:]) != tuple(outputs.size):
        maps = F.interpolate(maps, size=outputs.size, mode="bilinear", align_corners=False)
    return maps[:, 0], maps[:, 1]


def in_region(target: Target, region: RegionLike, of: int | None) -> Target:
    """A question about classes as one about a region.

    Args:
        target: of classes; what asks about a region already stays.
        region: see `RegionLike`.
        of: the class whose predicted region is meant by "predicted".

    Raises:
        UnknownNameError: a region is given for what has one, or for a function of all scores.
    """
    if isinstance(target, ClassScore):
        kind = RegionProbability if isinstance(target, ClassProbability) else RegionScore
        indices = (target.index,) if isinstance(target.index, int) else target.index
        # Each picture has a class of its own where there are several, and so its own region.
        return together([kind(one, region, of if len(indices) == 1 else one) for one in indices])
    if isinstance(target, Combination):
        return replace(
            target, terms=tuple((w, in_region(one, region, of)) for w, one in target.terms)
        )
    if isinstance(target, PerImage):
        return PerImage(tuple(in_region(t, region, _first_class(t)) for t in target.targets))
    if not (isinstance(region, str) and region == PREDICTED):
        raise UnknownNameError(
            f"{target.key[:80]} says itself which part of the picture it is about; leave the "
            "region out"
        )
    return target


def regions_of(target: Target) -> list[RegionScore]:
    """The classes and regions that a target is made of; none if it asks about no region."""
    if isinstance(target, RegionScore):
        return [target]
    parts = [one for _, one in target.terms] if isinstance(target, Combination) else []
    return [one for part in parts for one in regions_of(part)]


def _first_class(target: Target) -> int | None:
    """The class that a question is for: the first with a positive weight, or else the first."""
    if isinstance(target, ClassScore):
        return target.index if isinstance(target.index, int) else None
    if isinstance(target, Combination):
        terms = sorted(target.terms, key=lambda term: term[0] <= 0)
        return _first_class(terms[0][1])
    return None


def _label(labels: Sequence[str] | None, index: int) -> str:
    return labels[index] if labels and index < len(labels) else f"class {index}"

"""Target: a scalar question about a model's output.

A target is a frozen object ``target(output, owner) -> (n,)``. `owner` says which explained image
each row belongs to, so that per-image targets stay right through any repetition or chunking.
Targets have an algebra: ``a - b`` is "a rather than b", ``a + b`` a sum, ``2 * a`` a multiple.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UnknownNameError
from core.types import Prediction


class Target(ABC):
    """A scalar question about a model's output."""

    unit: str = "logit"

    @property
    @abstractmethod
    def key(self) -> str:
        """Identifies the target within caches and saved files."""

    @abstractmethod
    def __call__(self, output: Tensor, owner: Tensor) -> Tensor:
        """Scores (n,) of a model's output (n, N); row i belongs to image ``owner[i]``."""

    @abstractmethod
    def probability(self) -> Target:
        """The same question asked of the softmax probabilities."""

    @abstractmethod
    def describe(self, prediction: Prediction, image: int = 0) -> str:
        """The target in words, for one image."""

    @abstractmethod
    def check(self, outputs: int, images: int, model: str) -> None:
        """Raise `UnknownNameError` unless the target exists in `model` for that many images."""

    def for_image(self, image: int) -> Target:
        """The same question about one of the images alone."""
        return self

    def __add__(self, other: Target) -> Target:
        return Combination(((1.0, self), (1.0, other)))

    def __sub__(self, other: Target) -> Target:
        return Combination(((1.0, self), (-1.0, other)))

    def __mul__(self, factor: float) -> Target:
        return Combination(((float(factor), self),))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Combination(Target):
    """A weighted sum of targets.

    Attributes:
        terms: (weight, target) pairs.
    """

    terms: tuple[tuple[float, Target], ...]

    @property
    def unit(self) -> str:  # type: ignore[override]
        return " and ".join(dict.fromkeys(target.unit for _, target in self.terms))

    @property
    def key(self) -> str:
        return "(" + "+".join(f"{weight:.17g}*{target.key}" for weight, target in self.terms) + ")"

    def __call__(self, output: Tensor, owner: Tensor) -> Tensor:
        parts = [weight * target(output, owner) for weight, target in self.terms]
        return torch.stack(parts).sum(0)

    def probability(self) -> Target:
        return Combination(tuple((w, target.probability()) for w, target in self.terms))

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        names = [target.describe(prediction, image) for _, target in self.terms]
        weights = [weight for weight, _ in self.terms]
        if weights == [1.0, -1.0]:
            return f"{names[0]} rather than {names[1]}"
        return " + ".join(f"{w:g} x {name}" for w, name in zip(weights, names, strict=True))

    def for_image(self, image: int) -> Target:
        return Combination(tuple((w, target.for_image(image)) for w, target in self.terms))

    def check(self, outputs: int, images: int, model: str) -> None:
        for _, target in self.terms:
            target.check(outputs, images, model)
        (first, *others) = self.terms
        if others == [(-first[0], first[1])]:
            raise UnknownNameError(f"{self.key} is always zero; choose two different classes")


TargetLike = Target | str | int | Sequence[str | int] | None
"""A target, a class label or number, "A-B", or a list of classes; None for the predicted class."""

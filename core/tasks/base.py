"""Task and Target: what a model does, and a scalar question about what it returns.

A target is a frozen object ``target(outputs, owner) -> (n,)``. `owner` says which explained image
each row belongs to, so that per-image targets stay right through any repetition or chunking.
Targets have an algebra: ``a - b`` is "a rather than b", ``a + b`` a sum, ``2 * a`` a multiple, and
``-a`` is "against a".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.errors import TimmscopeError, UnknownNameError
from core.inputs.batch import InputBatch
from core.tasks.activation import Activation, serial_of
from core.tasks.outputs import Outputs
from core.types import Prediction


@dataclass(frozen=True)
class Explained:
    """The pictures that are explained, for targets that depend on them.

    Attributes:
        batch: the pictures.
        outputs: gives what the model returns for them, one row a picture; the first call may take a
            forward pass.
        labels: class names in output order; None if unknown.
        model: what the model is called in messages.
        images: which of the pictures a target is about.
    """

    batch: InputBatch
    outputs: Callable[[], Outputs]
    labels: Sequence[str] | None
    model: str
    images: tuple[int, ...]

    def only(self, image: int) -> Explained:
        """The same, for a target that is about one of the pictures."""
        return replace(self, images=(image,))

    def named(self, image: int) -> str:
        """What a picture is called in messages: by number where there are several."""
        return f"picture {image + 1}" if len(self.batch.x) > 1 else "this picture"


class Target(ABC):
    """A scalar question about a model's outputs."""

    unit: str = "logit"

    @property
    @abstractmethod
    def key(self) -> str:
        """Identifies the target within caches and saved files."""

    @abstractmethod
    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        """Scores (n,) of a model's outputs for n rows; row i belongs to image ``owner[i]``."""

    @abstractmethod
    def bounded(self) -> Target | None:
        """The same question on a scale of probabilities; None where there is none."""

    @abstractmethod
    def describe(self, prediction: Prediction, image: int = 0) -> str:
        """The target in words, for one image."""

    @abstractmethod
    def check(self, outputs: int, images: int, model: str) -> None:
        """Raise `UnknownNameError` unless the target exists in `model` for that many images."""

    def under(self, activation: Activation) -> Target:
        """The same question of a model with this activation, where that is not settled yet."""
        return self

    def fixed(self, explained: Explained) -> Target:
        """The same question, with all that depends on the explained pictures found out.

        A region that the model predicts is found in its outputs for the pictures themselves. So it
        stays where it is while a method or a metric changes the pictures.

        Raises:
            RegionError: a picture has no such region.
        """
        return self

    def with_classes(self, find: Callable[[int], int]) -> Target:
        """The same question of a model that numbers its classes otherwise.

        What its scores mean is settled by that model: see `under`.

        Args:
            find: the number there of the class with a number here; what it raises is passed on.
        """
        return self

    def probability(self) -> Target:
        """The same question asked of probabilities.

        Raises:
            UnknownNameError: there are none.
        """
        found = self.bounded()
        if found is None:
            raise UnknownNameError(
                f"{self.key} has no probability: its scale has no ends; explain the {self.unit}"
            )
        return found

    def for_image(self, image: int) -> Target:
        """The same question about one of the images alone."""
        return self

    def __add__(self, other: Target) -> Target:
        return Combination(((1.0, self), (1.0, other)))

    def __sub__(self, other: Target) -> Target:
        return Combination(((1.0, self), (-1.0, other)))

    def __neg__(self) -> Target:
        return Combination(((-1.0, self),))

    def __mul__(self, factor: float) -> Target:
        return Combination(((float(factor), self),))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Combination(Target):
    """A weighted sum of targets.

    Attributes:
        terms: (weight, target) pairs.
        offset: a number that is added: 1 in "the probability of anything but this class".
    """

    terms: tuple[tuple[float, Target], ...]
    offset: float = 0.0

    @property
    def unit(self) -> str:  # type: ignore[override]
        return " and ".join(dict.fromkeys(target.unit for _, target in self.terms))

    @property
    def key(self) -> str:
        terms = [f"{weight:.17g}*{target.key}" for weight, target in self.terms]
        return f"({'+'.join([*terms, *[f'{self.offset:g}'] * bool(self.offset)])})"

    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        parts = [weight * target(outputs, owner) for weight, target in self.terms]
        total = torch.stack(parts).sum(0)
        return total + self.offset if self.offset else total

    def bounded(self) -> Target | None:
        """The same combination of probabilities; "against a class" is all others' probability."""
        terms = []
        for weight, target in self.terms:
            found = target.bounded()
            if found is None:
                return None
            terms.append((weight, found))
        against = len(terms) == 1 and terms[0][0] == -1.0
        return Combination(tuple(terms), 1.0 if against else self.offset)

    def under(self, activation: Activation) -> Target:
        return replace(self, terms=tuple((w, target.under(activation)) for w, target in self.terms))

    def fixed(self, explained: Explained) -> Target:
        return replace(self, terms=tuple((w, one.fixed(explained)) for w, one in self.terms))

    def with_classes(self, find: Callable[[int], int]) -> Target:
        return replace(self, terms=tuple((w, one.with_classes(find)) for w, one in self.terms))

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        names = [target.describe(prediction, image) for _, target in self.terms]
        weights = [weight for weight, _ in self.terms]
        if weights == [1.0, -1.0]:
            return f"{names[0]} rather than {names[1]}"
        if weights == [-1.0]:
            return f"not {names[0]}"
        if set(weights) == {1.0}:
            return " + ".join(names)
        return " + ".join(f"{w:g} x {name}" for w, name in zip(weights, names, strict=True))

    def for_image(self, image: int) -> Target:
        return replace(self, terms=tuple((w, one.for_image(image)) for w, one in self.terms))

    def check(self, outputs: int, images: int, model: str) -> None:
        for _, target in self.terms:
            target.check(outputs, images, model)
        (first, *others) = self.terms
        if others == [(-first[0], first[1])]:
            raise UnknownNameError(f"{self.key} is always zero; choose two different classes")


@dataclass(frozen=True)
class PerImage(Target):
    """A target of its own for each image.

    Attributes:
        targets: one for each image, in order.
    """

    targets: tuple[Target, ...]

    @property
    def unit(self) -> str:  # type: ignore[override]
        return " and ".join(dict.fromkeys(target.unit for target in self.targets))

    @property
    def key(self) -> str:
        return f"[{','.join(target.key for target in self.targets)}]"

    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        rows, found = [], []
        for image, target in enumerate(self.targets):
            of_image = (owner == image).nonzero()[:, 0]
            if len(of_image):
                rows.append(of_image)
                found.append(target(outputs.select(of_image), owner[of_image]))
        order = torch.cat(rows).argsort()
        return torch.cat(found)[order.to(found[0].device)]

    def for_image(self, image: int) -> Target:
        return self.targets[image]

    def bounded(self) -> Target | None:
        each = [target.bounded() for target in self.targets]
        known = tuple(one for one in each if one is not None)
        return PerImage(known) if len(known) == len(each) else None

    def with_classes(self, find: Callable[[int], int]) -> Target:
        return PerImage(tuple(target.with_classes(find) for target in self.targets))

    def fixed(self, explained: Explained) -> Target:
        each = enumerate(self.targets)
        return PerImage(tuple(target.fixed(explained.only(image)) for image, target in each))

    def under(self, activation: Activation) -> Target:
        return PerImage(tuple(target.under(activation) for target in self.targets))

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return self.targets[image].describe(prediction, image)

    def check(self, outputs: int, images: int, model: str) -> None:
        if len(self.targets) != images:
            raise UnknownNameError(
                f"{len(self.targets)} targets given for {images} images; give one, or one per image"
            )
        for target in self.targets:
            target.check(outputs, images, model)


@dataclass(frozen=True)
class FunctionTarget(Target):
    """Any function of the outputs, given by the caller.

    Attributes:
        function: maps the outputs of n rows, for a classifier its scores (n, N), to (n,) numbers.
        key: identifies it; two functions never share one.
    """

    function: Callable[[Any], Any]
    key: str = ""
    unit = "score"

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", f"function:{serial_of(self.function)}")

    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        found = self.function(getattr(outputs, "values", outputs))
        if not isinstance(found, Tensor) or found.shape != (len(outputs),):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TimmscopeError(
                f"the target function returns {shape} for {len(outputs)} rows; return a tensor "
                f"({len(outputs)},), one number for each row"
            )
        return found

    def bounded(self) -> None:
        """None: nothing is known about the function's scale."""

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def check(self, outputs: int, images: int, model: str) -> None:
        """Every model has outputs that a function can take; what it returns is checked later."""


class Task(ABC):
    """What a model does: how its outputs are read, and what can be asked about them."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Identifies the task with its settings in caches."""

    @abstractmethod
    def read(self, scores: Tensor) -> Outputs:
        """Outputs from the part of a forward pass that holds them."""

    @abstractmethod
    def default_target(self, outputs: Outputs) -> Target:
        """What is explained where nothing is said: one target for the images of `outputs`."""

    @abstractmethod
    def blank(self, images: int, classes: int) -> Outputs:
        """Outputs that are all zero, for where only the names of the classes are needed."""

    @abstractmethod
    def to_target(self, target: object, model: str) -> Target:
        """A target from what a person or a program gives.

        Raises:
            UnknownNameError: there is no such target.
        """

    @abstractmethod
    def predict(self, outputs: Outputs) -> Prediction:
        """What the model says, for people."""


TargetLike = Any
"""What `Explainer.target` takes: None for the predicted class; a `Target`; a class number or label;
"A-B" for A rather than B, "A+B" for a sum, "not A" for what speaks against A; a set of classes for
their sum; any function from scores (n, N) to (n,); an `InRegion`, of a segmenter; or a list, tensor
or array of these, one for each image."""

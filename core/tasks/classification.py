"""Classification in all its forms: classes, tags, yes or no, and numbers.

>>> outputs = Scores(torch.tensor([[1.0, 4.0, 2.0]]))
>>> owner = torch.tensor([0])
>>> (ClassScore(1) - ClassScore(2))(outputs, owner)
tensor([2.])
>>> ClassProbability((0,))(outputs, owner).item() == outputs.values.softmax(-1)[0, 0].item()
True
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.errors import UnknownNameError, unknown
from core.tasks.activation import SOFTMAX, Activation
from core.tasks.base import Combination, FunctionTarget, PerImage, Target, Task
from core.tasks.outputs import Outputs, Scores
from core.tasks.region import InRegion
from core.types import OutputKind, Prediction

_NOT = re.compile(r"\s*not\s+(.+)", re.IGNORECASE | re.DOTALL)


def scores_of(outputs: Outputs) -> Tensor:
    """The scores (n, N) of a classifier's outputs.

    Raises:
        UnknownNameError: the outputs are no scores of classes.
    """
    if not isinstance(outputs, Scores):
        raise UnknownNameError("a class is explained, and the outputs are no scores of classes")
    return outputs.values


@dataclass(frozen=True)
class ClassScore(Target):
    """The score of a class before its activation, such as the logit.

    Attributes:
        index: the class for every image, or one per image.
        activation: the model's; None where it is not settled yet, and then a softmax.
    """

    index: int | tuple[int, ...]
    activation: Activation | None = None

    @property
    def unit(self) -> str:  # type: ignore[override]
        return (self.activation or SOFTMAX).unit

    @property
    def key(self) -> str:
        indices = (self.index,) if isinstance(self.index, int) else self.index
        return f"{self.unit}:{','.join(map(str, indices))}"

    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        return self._pick(scores_of(outputs), owner)

    def _pick(self, values: Tensor, owner: Tensor) -> Tensor:
        if isinstance(self.index, int):
            return values[:, self.index]
        column = torch.tensor(self.index, device=values.device)[owner]
        return values.gather(1, column[:, None])[:, 0]

    def bounded(self) -> Target | None:
        activation = self.activation or SOFTMAX
        return ClassProbability(self.index, activation) if activation.bounded else None

    def under(self, activation: Activation) -> Target:
        return self if self.activation is not None else replace(self, activation=activation)

    def with_classes(self, find: Callable[[int], int]) -> Target:
        index = find(self.index) if isinstance(self.index, int) else tuple(map(find, self.index))
        return replace(self, index=index, activation=None)

    def of(self, image: int) -> int:
        """The class of one image."""
        return self.index if isinstance(self.index, int) else self.index[image]

    def for_image(self, image: int) -> Target:
        return replace(self, index=self.of(image))

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return prediction.label(self.of(image))

    def check(self, outputs: int, images: int, model: str) -> None:
        indices = (self.index,) if isinstance(self.index, int) else self.index
        if not isinstance(self.index, int) and len(indices) != images:
            raise UnknownNameError(
                f"{len(indices)} classes given for {images} images; give one, or one per image"
            )
        for index in indices:
            check_class(index, outputs, model)


def check_class(index: int, outputs: int, model: str) -> None:
    """Raise `UnknownNameError` unless a model with so many outputs has the class."""
    if not 0 <= index < outputs:
        raise UnknownNameError(
            f"class {index} does not exist: {model} has classes 0 to {outputs - 1}"
        )


@dataclass(frozen=True)
class ClassProbability(ClassScore):
    """The probability of a class: its score after the model's activation."""

    @property
    def unit(self) -> str:  # type: ignore[override]
        return "probability"

    def __call__(self, outputs: Outputs, owner: Tensor) -> Tensor:
        return self._pick((self.activation or SOFTMAX)(scores_of(outputs)), owner)

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return f"p({super().describe(prediction, image)})"


@dataclass(frozen=True)
class Classification(Task):
    """One row of scores an image: exclusive classes, tags, yes or no, numbers, or features.

    Attributes:
        activation: what turns scores into what a person reads.
        labels: names of the outputs in order; None if unknown.
        kind: what one output stands for.
    """

    activation: Activation = SOFTMAX
    labels: Sequence[str] | None = None
    kind: OutputKind = "class"

    @property
    def key(self) -> str:
        return f"classification:{self.activation.key}:{self.activation.unit}:{self.kind}"

    def read(self, scores: Tensor) -> Scores:
        return Scores(scores)

    def blank(self, images: int, classes: int) -> Scores:
        return Scores(torch.zeros(images, classes))

    def default_target(self, outputs: Outputs) -> ClassScore:
        """Each image's likeliest class, or strongest feature; of a regression, the first number."""
        best = scores_of(outputs).argmax(-1)
        if self.kind == "output":
            best = torch.zeros_like(best)
        return ClassScore(tuple(best.tolist()), self.activation)

    def to_target(self, target: object, model: str = "the model") -> Target:
        return to_target(target, self.labels, model).under(self.activation)

    def predict(self, outputs: Outputs) -> Prediction:
        scores = scores_of(outputs).detach().cpu().clone()
        activation = self.activation
        return Prediction(
            scores,
            activation(scores.float()),
            labels=self.labels,
            kind=self.kind,
            activation=activation.key,
            unit="" if activation.bounded or activation.unit == "value" else activation.unit,
            bounded=activation.bounded,
            exclusive=activation.exclusive,
        )


def parse_target(text: str | int, labels: Sequence[str] | None, model: str = "the model") -> Target:
    """A target from what a person types: a class, "A-B", "A+B", or "not" before one of these.

    An integer is always an index; text is a label before it is an index. Labels are compared
    without regard to case; a label that itself contains a hyphen, a plus or "not" is preferred to
    what these would mean.

    >>> names = ["tabby", "black-and-tan coonhound"]
    >>> parse_target("Black-and-tan coonhound", names)
    ClassScore(index=1, activation=None)
    >>> parse_target("tabby-1", names).key, parse_target("not tabby", names).key
    ('(1*logit:0+-1*logit:1)', '(-1*logit:0)')

    Raises:
        UnknownNameError: no class is called that.
    """
    if isinstance(text, int):
        return ClassScore(text)
    names = {label.lower(): i for i, label in reversed(list(enumerate(labels or ())))}
    found = _parse(text, names)
    if found is not None:
        return found
    if re.fullmatch(r"\s*-\d+\s*", text):
        raise UnknownNameError(
            f"no class {text.strip()[:20]} in {model}; classes are numbered from 0"
        )
    if not labels:
        raise UnknownNameError(
            f"no class {text[:80]!r}: {model} does not name its classes; give a number"
        )
    raise unknown("class", text, labels, f"in {model}", value_of=list(labels).index)


def _parse(text: str, names: Mapping[str, int]) -> Target | None:
    """A class, "A-B", "A+B+...", or "not" one of these; None if it is none of these."""
    whole = _parse_class(text, names)
    if whole is not None:
        return whole
    if negated := _NOT.fullmatch(text):
        against = _parse(negated[1], names)
        return None if against is None else -against
    for left, right in _cuts(text, "-"):
        sides = _parse_class(left, names), _parse_class(right, names)
        if sides[0] is not None and sides[1] is not None:
            return sides[0] - sides[1]
    for left, right in _cuts(text, "+"):
        first, rest = _parse_class(left, names), _parse(right, names)
        if first is not None and isinstance(rest, ClassScore):
            return first + rest
        if first is not None and isinstance(rest, Combination) and _is_sum(rest):
            return Combination(((1.0, first), *rest.terms))
    return None


def _cuts(text: str, sign: str) -> Iterator[tuple[str, str]]:
    pieces = text.split(sign)
    for cut in range(1, len(pieces)):
        yield sign.join(pieces[:cut]), sign.join(pieces[cut:])


def _is_sum(target: Combination) -> bool:
    return all(weight == 1.0 for weight, _ in target.terms)


def _parse_class(text: str, names: Mapping[str, int]) -> ClassScore | None:
    text = text.strip().lower()
    if text in names:
        return ClassScore(names[text])
    return ClassScore(int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else None


def to_target(target: object, labels: Sequence[str] | None, model: str = "the model") -> Target:
    """A target from what a program gives; see `core.tasks.base.TargetLike`.

    Args:
        target: whole numbers of any kind count as class numbers; a `Target` passes through.
        labels: class names in output order; None if unknown.
        model: what the model is called in messages.

    Raises:
        UnknownNameError: no class is called that.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, str):
        return parse_target(target, labels, model)
    several = several_of(target)
    if several:
        each = [to_target(one, labels, model) for one in several if several_of(one) is None]
        if len(each) < len(several):
            raise UnknownNameError(
                f"{str(target)[:80]!r} nests lists; write a sum as 'A+B', or give a Target"
            )
        if isinstance(target, (set, frozenset)):
            return each[0] if len(each) == 1 else Combination(tuple((1.0, one) for one in each))
        if all(type(one) is ClassScore for one in each):
            return ClassScore(tuple(one.of(0) for one in each if isinstance(one, ClassScore)))
        return PerImage(tuple(each))
    if isinstance(target, InRegion):
        raise UnknownNameError(
            f"a region is asked about, and {model} gives one row of scores for the whole picture; "
            "leave the region out, or choose a segmentation model"
        )
    if not isinstance(target, bool) and several is None:
        with suppress(TypeError):
            return ClassScore(operator.index(target))  # type: ignore[arg-type]
        if callable(target):
            return FunctionTarget(target)
    raise UnknownNameError(
        f"{str(target)[:80]!r} is no target; give a class's number or label, 'A-B', 'A+B' or "
        "'not A', a function of the scores, or one of these for each image"
    )


def several_of(target: object) -> list[object] | None:
    """The members of a collection, in a fixed order; None if it is none."""
    if isinstance(target, (set, frozenset)):
        return sorted(target, key=str)
    if isinstance(target, (list, tuple)):
        return list(target)
    shape, to_list = getattr(target, "shape", ()), getattr(target, "tolist", None)
    if to_list is None or len(shape) != 1:
        return None
    members: list[object] = to_list()
    return members

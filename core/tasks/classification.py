"""Targets of classifiers: the logit or the probability of a class.

>>> output = torch.tensor([[1.0, 4.0, 2.0]])
>>> owner = torch.tensor([0])
>>> (ClassLogit(1) - ClassLogit(2))(output, owner)
tensor([2.])
>>> ClassProbability((0,))(output, owner).item() == output.softmax(-1)[0, 0].item()
True
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UnknownNameError, unknown
from core.tasks.base import Target
from core.types import Prediction


@dataclass(frozen=True)
class ClassLogit(Target):
    """The logit of a class.

    Attributes:
        index: the class for every image, or one per image.
    """

    index: int | tuple[int, ...]
    unit = "logit"

    @property
    def key(self) -> str:
        indices = (self.index,) if isinstance(self.index, int) else self.index
        return f"{self.unit}:{','.join(map(str, indices))}"

    def __call__(self, output: Tensor, owner: Tensor) -> Tensor:
        if isinstance(self.index, int):
            return output[:, self.index]
        column = torch.tensor(self.index, device=output.device)[owner]
        return output.gather(1, column[:, None])[:, 0]

    def probability(self) -> Target:
        return ClassProbability(self.index)

    def of(self, image: int) -> int:
        """The class of one image."""
        return self.index if isinstance(self.index, int) else self.index[image]

    def for_image(self, image: int) -> Target:
        return type(self)(self.of(image))

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return prediction.label(self.of(image))

    def check(self, outputs: int, images: int, model: str) -> None:
        indices = (self.index,) if isinstance(self.index, int) else self.index
        if not isinstance(self.index, int) and len(indices) != images:
            raise UnknownNameError(
                f"{len(indices)} classes given for {images} images; give one, or one per image"
            )
        for index in indices:
            if not 0 <= index < outputs:
                raise UnknownNameError(
                    f"class {index} does not exist: {model} has classes 0 to {outputs - 1}"
                )


@dataclass(frozen=True)
class ClassProbability(ClassLogit):
    """The softmax probability of a class."""

    unit = "probability"

    def __call__(self, output: Tensor, owner: Tensor) -> Tensor:
        return super().__call__(output.softmax(-1), owner)

    def describe(self, prediction: Prediction, image: int = 0) -> str:
        return f"p({super().describe(prediction, image)})"


def predicted(outputs: Tensor) -> ClassLogit:
    """Each image's likeliest class, from outputs (B, N)."""
    return ClassLogit(tuple(outputs.argmax(-1).tolist()))


def parse_target(text: str | int, labels: Sequence[str] | None, model: str = "the model") -> Target:
    """A target from what a person types: a class index, a label, or "A-B" for A rather than B.

    An integer is always an index; text is a label before it is an index. Labels are compared
    without regard to case; a label that itself contains a hyphen is preferred to a contrast.

    >>> names = ["tabby", "black-and-tan coonhound"]
    >>> parse_target("Black-and-tan coonhound", names)
    ClassLogit(index=1)
    >>> parse_target("tabby-1", names).key
    '(1*logit:0+-1*logit:1)'

    Raises:
        UnknownNameError: no class is called that.
    """
    if isinstance(text, int):
        return ClassLogit(text)
    names = {label.lower(): i for i, label in reversed(list(enumerate(labels or ())))}
    whole = _parse_class(text, names)
    if whole is not None:
        return whole
    pieces = text.split("-")
    for cut in range(1, len(pieces)):
        sides = [_parse_class("-".join(p), names) for p in (pieces[:cut], pieces[cut:])]
        if sides[0] is not None and sides[1] is not None:
            return sides[0] - sides[1]
    if re.fullmatch(r"\s*-\d+\s*", text):
        raise UnknownNameError(
            f"no class {text.strip()[:20]} in {model}; classes are numbered from 0"
        )
    if not labels:
        raise UnknownNameError(
            f"no class {text[:80]!r}: {model} does not name its classes; give a number"
        )
    raise unknown("class", text, labels, f"in {model}")


def _parse_class(text: str, names: Mapping[str, int]) -> ClassLogit | None:
    text = text.strip().lower()
    if text in names:
        return ClassLogit(names[text])
    return ClassLogit(int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else None


def to_target(target: object, labels: Sequence[str] | None, model: str = "the model") -> Target:
    """A target from a label, a class number, "A-B", or one of these for each image.

    Args:
        target: whole numbers of any kind count as class numbers; a `Target` passes through.
        labels: class names in output order; None if unknown.
        model: what the model is called in messages.

    Raises:
        UnknownNameError: no class is called that.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, (list, tuple)) and target:
        each = [to_target(one, labels, model) for one in target]
        if all(isinstance(one, ClassLogit) for one in each):
            return ClassLogit(tuple(one.of(0) for one in each if isinstance(one, ClassLogit)))
    elif isinstance(target, str):
        return parse_target(target, labels, model)
    elif not isinstance(target, bool):
        with suppress(TypeError):
            return ClassLogit(operator.index(target))  # type: ignore[arg-type]
    raise UnknownNameError(
        f"{str(target)[:80]!r} is no target; give a class's number or label, one for each image, "
        "or 'A-B'"
    )

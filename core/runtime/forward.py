"""Forward: how a model is called, and where its scores lie in what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.errors import ModelError
from core.runtime.model_call import call_model
from core.tasks.reading import (
    OutputPart,
    TaskName,
    find_scores,
    has_no_classes,
    is_map,
    to_maps,
    to_rows,
)

Ending = Literal["softmax", "sigmoid"]
"""The function that a model ends in."""

_ENDINGS: Mapping[Any, Ending] = {
    **dict.fromkeys((torch.softmax, F.softmax, Tensor.softmax), "softmax"),
    **dict.fromkeys((torch.log_softmax, F.log_softmax, Tensor.log_softmax), "softmax"),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, Tensor.sigmoid, torch.special.expit), "sigmoid"),
    F.logsigmoid: "sigmoid",
}
_SAME = frozenset({torch.clone, Tensor.clone, Tensor.detach, Tensor.contiguous})
"""Functions that give the values they were given, as hooks on the last layer do."""


@dataclass(frozen=True)
class Forward:
    """One forward pass of a model, from rows of images to rows of scores.

    Attributes:
        model: maps images (n, C, H, W), and what `kwargs` holds, to anything.
        name: what the model is called in messages.
        output: which part of what it returns holds the scores; None where there is no doubt.
        argument: the parameter that takes the images; None for the first one.
        kwargs: the model's other inputs by parameter. A tensor whose first axis has length 1 is
            repeated for each row; everything else is passed on as it is.
        classes: how many classes there are, which helps to tell scores from other outputs; None if
            unknown.
        before_ending: whether the scores are what enters the softmax or sigmoid that the model ends
            in, rather than what leaves it.
        task: what the model does; None to tell by what it returns.
    """

    model: nn.Module
    name: str
    output: OutputPart = None
    argument: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    classes: int | None = None
    before_ending: bool = False
    task: TaskName | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, N) the scores of images (n, C, H, W); of a segmenter (n, N, h, w).

        Raises:
            ModelFailure: the model raised an error.
            ModelError: nothing that it returned can be scores, or more than one thing can.
        """
        with _Endings() if self.before_ending else nullcontext() as endings:
            scores = self._find(self.raw(rows))
        if endings is not None:
            found = endings.before(scores)
            if found is None:
                raise ModelError(
                    f"{self.name} no longer ends in the softmax or sigmoid that it ended in; say "
                    "with activation= what its outputs are"
                )
            scores = found[1]
        return self._shaped(scores, rows)

    def raw(self, rows: Tensor) -> Any:
        """Whatever the model returns for images (n, C, H, W).

        Raises:
            ModelFailure: the model raised an error.
        """
        others = {key: _repeated(value, len(rows)) for key, value in self.kwargs.items()}
        if self.argument is not None:
            return call_model(self.model, name=self.name, **{self.argument: rows}, **others)
        return call_model(self.model, rows, name=self.name, **others)

    def with_ending(self, rows: Tensor) -> tuple[Tensor, Ending | None]:
        """The scores of `rows`, and the softmax or sigmoid that they come straight from."""
        with _Endings() as endings:
            scores = self._find(self.raw(rows))
        found = endings.before(scores)
        return self._shaped(scores, rows), None if found is None else found[0]

    @property
    def features(self) -> bool:
        """Whether the outputs are features of a model without classes."""
        return self.task != "segmentation" and has_no_classes(self.model)

    def _shaped(self, scores: Tensor, images: Tensor) -> Tensor:
        """The scores of images as one row each, or of a segmenter as maps."""
        size = (images.shape[2], images.shape[3])
        found = self.task is None and not self.features and is_map(scores, size)
        if found or self.task == "segmentation":
            return to_maps(scores, len(images), size, self.name)
        return to_rows(scores, len(images), self.name, features=self.features)

    def _find(self, raw: Any) -> Tensor:
        return find_scores(
            raw,
            self.name,
            self.output,
            features=self.features,
            classes=self.classes,
            task=self.task,
        )


class _Endings(TorchFunctionMode):
    """Remembers what entered each softmax and sigmoid over classes, by what left it."""

    def __init__(self) -> None:
        super().__init__()
        self._found: list[tuple[Tensor, Ending, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        ending = _ENDINGS.get(func)
        entered = args[0] if args else kwargs.get("input")
        if ending and isinstance(result, Tensor) and isinstance(entered, Tensor):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            over_classes = dim in (1, 1 - result.ndim) and result.ndim in (2, 4)
            if ending == "sigmoid" or over_classes:
                self._found.append((result, ending, entered))
        if func in _SAME and (found := self.before(entered)) and isinstance(result, Tensor):
            self._found.append((result, *found))
        return result

    def before(self, scores: object) -> tuple[Ending, Tensor] | None:
        """The function that gave `scores`, and what entered it; None if there was none."""
        for left, ending, entered in reversed(self._found):
            if left is scores:
                return ending, entered
        return None


def _repeated(value: Any, rows: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1 and rows != 1:
        return value.expand(rows, *value.shape[1:])
    return value

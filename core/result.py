"""Result: what all answers have in common: equality by value, pickling, copies, text, HTML."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

_ARRAYS = (Tensor, np.ndarray)
WIDEST = 60
"""The most characters of one value in the text of a result."""


class Result:
    """Base of the dataclasses that answer a question; they may hold tensors.

    Derive from it with ``@dataclass(frozen=True, slots=True, eq=False, repr=False)``.

    - Two results are equal if they are of the same type and every field that counts is equal:
      tensors by shape, type of number and value, where NaN equals NaN; sequences and mappings
      entry by entry.
    - A result has no hash, because its tensors may be written into. As a key, take something that
      names it, such as its configuration, or ``id(result)``.
    - A result can be pickled and copied. A tensor that is a part of a larger one is pickled and
      copied without the rest, and a read-only mapping becomes a dictionary.
    - In a notebook, a result shows itself as HTML.
    """

    __slots__ = ()
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(
            same(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)  # type: ignore[arg-type]
            if field.compare
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), {k: _portable(v) for k, v in _state(self).items()})

    def __copy__(self: T) -> T:
        return _rebuilt(type(self), _state(self))

    def __deepcopy__(self: T, memo: dict[int, Any]) -> T:
        state = {k: copy.deepcopy(_portable(v), memo) for k, v in _state(self).items()}
        return _rebuilt(type(self), state)

    def __repr__(self) -> str:
        shown = (f"{name}={in_short(value)}" for name, value in shown_fields(self).items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        """What a notebook shows in place of the text."""
        html: str = self._views().html(self)
        return html

    @staticmethod
    def _views() -> Any:
        """The module that displays results, `core.views.notebook`."""
        # The one import that runs against the layers: only who displays a result loads the views.
        from core.views import notebook

        return notebook


def shown_fields(result: object) -> dict[str, Any]:
    """The values of a dataclass by name, of the fields that belong in its text."""
    return {f.name: getattr(result, f.name) for f in fields(result) if f.repr}  # type: ignore[arg-type]


def in_short(value: object) -> str:
    """A value in at most `WIDEST` characters.

    >>> in_short(torch.zeros(1, 7, 7)), in_short(torch.tensor([0.25])), in_short({"a": 1, "b": 2})
    ('<1 x 7 x 7>', '0.25', '{a, b}')
    >>> len(in_short("word " * 40))
    60
    """
    match value:
        case Tensor() | np.ndarray() if value.ndim == 0 or (value.ndim == 1 and len(value) <= 3):
            numbers = np.atleast_1d(np.asarray(value.tolist()))
            text = ", ".join(f"{number:.4g}" for number in numbers)
            return text if len(numbers) == 1 else f"[{text}]"
        case Tensor() | np.ndarray():
            return f"<{' x '.join(map(str, value.shape))}>"
        case float():
            return f"{value:.4g}"
        case Mapping():
            return _cut(f"{{{', '.join(map(str, value))}}}")
        case list() | tuple() if any(isinstance(item, Result) for item in value):
            return f"<{len(value)} of {type(value[0]).__name__}>"
        case Result():
            return f"<{type(value).__name__}>"
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def same(one: object, other: object) -> bool:
    """Whether two values are equal, tensors among them; see `Result`.

    >>> same({"a": torch.zeros(2)}, {"a": torch.zeros(2)}), same(torch.zeros(2), torch.zeros(1, 2))
    (True, False)
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and _equal_values(one.detach(), other.detach().to(one.device))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        nan = one.dtype.kind in "fc" and other.dtype.kind in "fc"
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=nan)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, _ARRAYS) or isinstance(other, _ARRAYS):
        return False  # only one of them is an array, or they are of two kinds
    return bool(one == other)


def _equal_values(one: Tensor, other: Tensor) -> bool:
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _state(result: object) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in fields(result)}  # type: ignore[arg-type]


def _rebuilt(cls: type[T], state: Mapping[str, Any]) -> T:
    """A result from the values of its fields; the reverse of `Result.__reduce__`."""
    return cls(**state)


def _portable(value: Any) -> Any:
    """A value that can be pickled and keeps nothing else alive."""
    if isinstance(value, Tensor):
        value = value.detach()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone()
    if isinstance(value, Mapping):
        return {key: _portable(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_portable, value))
    return value

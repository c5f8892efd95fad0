"""Activation: what turns a model's scores into what a person reads.

A classifier of exclusive classes has a softmax; where each class stands for itself (tags, or a
single yes or no) it is a sigmoid; the numbers of a regression stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from core.errors import ModelError, unknown


@dataclass(frozen=True, slots=True)
class Activation:
    """What turns scores (n, N) into what a person reads, of the same shape.

    Attributes:
        key: identifies it in caches, in files and as an option.
        label: what it is called on the page.
        apply: the function itself.
        unit: what a score is called before it: "logit", "probability", "value".
        bounded: whether it gives probabilities, from 0 to 1.
        exclusive: whether the classes exclude each other, so that probabilities add up to 1.
    """

    key: str
    label: str
    apply: Callable[[Tensor], Tensor]
    unit: str
    bounded: bool = True
    exclusive: bool = False

    def __call__(self, scores: Tensor) -> Tensor:
        """What a person reads, (n, N)."""
        return self.apply(scores)


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def _unchanged(scores: Tensor) -> Tensor:
    return scores


SOFTMAX = Activation("softmax", "Softmax", _softmax, "logit", exclusive=True)
SIGMOID = Activation("sigmoid", "Sigmoid (tags)", torch.sigmoid, "logit")
PROBABILITIES = Activation("probabilities", "Probabilities", _unchanged, "probability")
IDENTITY = Activation("identity", "Numbers", _unchanged, "value", bounded=False)
ACTIVATIONS = {a.key: a for a in (SOFTMAX, SIGMOID, PROBABILITIES, IDENTITY)}
"""The activations that can be named, by key."""

ActivationLike = Activation | str | Callable[[Tensor], Tensor] | None
"""An activation, its key, or any function that gives probabilities; None to find it."""


def to_activation(given: ActivationLike, unit: str = "") -> Activation | None:
    """The activation named or given; None stays None.

    Args:
        given: a function maps scores (n, N) to as many probabilities.
        unit: the unit of numbers that are no probabilities, such as "mm".

    Raises:
        UnknownNameError: there is none of that name.
        ModelError: it is neither a name nor a function, or a unit is given for probabilities.

    >>> to_activation("sigmoid").exclusive, to_activation("identity", "mm").unit
    (False, 'mm')
    """
    if given is None or isinstance(given, Activation):
        found = given
    elif isinstance(given, str):
        if given not in ACTIVATIONS:
            raise unknown("activation", given, ACTIVATIONS)
        found = ACTIVATIONS[given]
    elif callable(given):
        key = f"custom:{serial_of(given)}"
        found = Activation(key, "The caller's own", _Checked(given), "logit")
    else:
        raise ModelError(
            f"activation is {repr(given)[:40]}; name one of {', '.join(ACTIVATIONS)}, or give a "
            "function from scores (n, N) to probabilities (n, N)"
        )
    if unit:
        if found is None or found.bounded:
            raise ModelError(
                f"the unit {unit[:20]!r} is for outputs that are numbers; add activation='identity'"
            )
        found = replace(found, unit=unit)
    return found


@dataclass(frozen=True, slots=True)
class _Checked:
    """A function of the caller; what it returns is checked."""

    function: Callable[[Tensor], Any]

    def __call__(self, scores: Tensor) -> Tensor:
        found = self.function(scores)
        if not isinstance(found, Tensor) or found.shape != scores.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ModelError(
                f"the activation returns {shape} for scores {tuple(scores.shape)}; return a "
                "tensor of the same shape"
            )
        if bool(((found < 0) | (found > 1)).any()):
            low, high = found.min().item(), found.max().item()
            raise ModelError(
                f"the activation returns values from {low:.3g} to {high:.3g}; return "
                "probabilities from 0 to 1, or use activation='identity' for other numbers"
            )
        return found


_SERIALS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_NEXT = itertools.count(1)


def serial_of(function: Callable[..., Any]) -> str:
    """A name that no other function of this process has: its own, and a number.

    The number outlives the function, so that a later function at the same address gets another.
    """
    name = str(getattr(function, "__qualname__", type(function).__name__))
    try:
        return f"{name}#{_SERIALS.setdefault(function, next(_NEXT))}"
    except TypeError:  # neither weak references nor hashes: told apart at every use
        return f"{name}#{next(_NEXT)}"

"""Errors, each with one sentence that names the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Self

Field = Literal["model", "weights", "method", "layer", "target", "versus"]


@dataclass(frozen=True, slots=True)
class WayOut:
    """One change to a question that failed, after which it can be asked again.

    Attributes:
        field: what is changed.
        value: its new value, such as a name or the index of a class.
        text: what the change does, in a few words for a button.
    """

    field: Field
    value: str | int
    text: str


RANDOM_WEIGHTS = WayOut("weights", "random", "Use random weights")


class TimmscopeError(ValueError):
    """Base of every error that a person can fix; ``str(error)`` is meant to be shown to them.

    Args:
        message: the sentence.
        ways_out: changes that help, the best first.

    Attributes:
        ways_out: the same.
    """

    def __init__(self, message: str, ways_out: Iterable[WayOut] = ()) -> None:
        super().__init__(message)
        self.ways_out = tuple(ways_out)

    def offering(self, *ways_out: WayOut) -> Self:
        """The same error, with more ways out after those that it has."""
        self.ways_out = tuple(dict.fromkeys((*self.ways_out, *ways_out)))
        return self


class PictureError(TimmscopeError):
    """A picture cannot be read, or must not be (too large, not a picture)."""


class UnknownNameError(TimmscopeError):
    """A model, layer, method, metric, parameter or class that does not exist."""


class ModelError(TimmscopeError):
    """A model or checkpoint cannot be loaded, or does not fit."""


class ModelFailure(TimmscopeError):  # noqa: N818  a failure of the user's model, not of ours
    """The model's own code failed while it ran; its error is the `__cause__`."""


class NotApplicableError(TimmscopeError):
    """A method, metric or question does not apply here; the sentence is the reason."""


class RegionError(NotApplicableError):
    """A picture has no such region: it is empty, lies outside, or nothing is predicted there."""


class MemoryExhaustedError(TimmscopeError):
    """Not even one row fits into the device's memory."""


class CancelledError(TimmscopeError):
    """The work was cancelled."""


FIELDS: Mapping[str, Field] = MappingProxyType(
    {"model": "model", "method": "method", "layer": "layer", "class": "target"}
)
"""What a better name is a value of, by the kind of thing that it names."""


def unknown(
    kind: str,
    name: object,
    known: Iterable[str],
    where: str = "",
    value_of: Callable[[str], str | int] = str,
) -> UnknownNameError:
    """An `UnknownNameError` with the nearest known names as a suggestion and as ways out.

    Args:
        kind: what is named.
        name: the name that does not exist.
        known: all names.
        where: what the names belong to.
        value_of: the value of a name in a question, where that is not the name.

    >>> str(unknown("layer", "layr4", ["layer3", "layer4"], "in resnet50"))
    "no layer 'layr4' in resnet50; did you mean 'layer4' or 'layer3'?"
    >>> str(unknown("method", "magic", ["gradcam", "saliency"]))
    "no method 'magic'; choose one of gradcam, saliency"
    >>> unknown("model", "resnt50", ["resnet50"]).ways_out
    (WayOut(field='model', value='resnet50', text='Use resnet50'),)
    """
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    place = f" {where}" if where else ""
    if near:
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
    elif len(names) <= 20:
        hint = f"choose one of {', '.join(names)}"
    else:
        hint = f"there are {len(names)}, from {names[0]} to {names[-1]}"
    field = FIELDS.get(kind)
    ways_out = [WayOut(field, value_of(one), f"Use {one}") for one in near] if field else []
    return UnknownNameError(f"no {kind} {str(name)[:80]!r}{place}; {hint}", ways_out)


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0]


def reasons_and_ways_out(
    errors: Mapping[str, TimmscopeError],
) -> tuple[dict[str, str], dict[str, tuple[WayOut, ...]]]:
    """What errors say, and the ways out of those that know any; both by the errors' names."""
    reasons = {name: first_line(error) for name, error in errors.items()}
    return reasons, {name: error.ways_out for name, error in errors.items() if error.ways_out}

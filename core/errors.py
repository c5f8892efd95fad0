"""Errors, each with one sentence that names the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TimmscopeError(ValueError):
    """Base of every error that a person can fix; ``str(error)`` is meant to be shown to them."""


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


class MemoryExhaustedError(TimmscopeError):
    """Not even one row fits into the device's memory."""


class CancelledError(TimmscopeError):
    """The work was cancelled."""


def unknown(kind: str, name: object, known: Iterable[str], where: str = "") -> UnknownNameError:
    """An `UnknownNameError` with the nearest known names as a suggestion.

    >>> str(unknown("layer", "layr4", ["layer3", "layer4"], "in resnet50"))
    "no layer 'layr4' in resnet50; did you mean 'layer4' or 'layer3'?"
    >>> str(unknown("method", "magic", ["gradcam", "saliency"]))
    "no method 'magic'; choose one of gradcam, saliency"
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
    return UnknownNameError(f"no {kind} {str(name)[:80]!r}{place}; {hint}")


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0]

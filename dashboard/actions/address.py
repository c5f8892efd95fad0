"""What the page's address asks for, so that a reload or another person sees the same."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from core import METHODS, METRICS
from core.errors import TimmscopeError
from core.inputs.crop import crop_text, read_crop
from core.tasks.activation import ACTIVATIONS
from core.views.colour import COLORMAPS
from dashboard.actions.compare import WHAT
from dashboard.actions.metrics import MAX_RANDOM_MAPS
from dashboard.state.models import FOUND, MAX_UNIT

SHARED = "shared"
"""The field of an address that names a shared picture."""
LONGEST = 4000
"""The most characters of a value in the address."""
MOST = 50
"""The most entries of a list in the address."""


def read_address(
    query: Mapping[str, str],
    examples: Mapping[str, str],
    shared: Callable[[str], str | None] = lambda name: None,
) -> dict[str, Any]:
    """The fields of the page that an address sets; whatever is not usable is left out.

    Args:
        query: the address's query string, by name.
        examples: paths of the example pictures by file name.
        shared: the path of a shared picture by its name; None where there is none. No other picture
            can be named, and no name is part of a path.

    >>> read_address({"method": "rise", "alpha": "7", "picture": "/etc/passwd"}, {})
    {'method': 'rise'}
    """
    readers = {**READERS, "picture": examples.get, SHARED: shared}
    found = {
        name: read(text)
        for name, read in readers.items()
        if (text := query.get(name)) and len(text) <= LONGEST
    }
    if picture := found.pop(SHARED, None):
        found["picture"] = picture
    return {name: value for name, value in found.items() if value is not None}


def _one_of(*choices: str) -> Callable[[str], str | None]:
    return lambda text: text if text in choices else None


def _share(low: float, high: float) -> Callable[[str], float | None]:
    """A number within bounds."""

    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if math.isfinite(value) and low <= value <= high else None

    return read


def _flag(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text)


def _settings(text: str) -> dict[str, Any] | None:
    """Parameters by method; their values are checked where they are used."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    good = isinstance(found, dict) and all(isinstance(one, dict) for one in found.values())
    return found if good else None


def _crop(text: str) -> str | None:
    """A part of a picture; whether the picture has it is found out with the picture."""
    try:
        return crop_text(read_crop(text)) or None
    except TimmscopeError:
        return None


def _class(text: str) -> int | str:
    """A class by number or label; whether the model has it is found out with the model."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text[:200]


def _texts(*choices: str) -> Callable[[str], list[str] | None]:
    """A list of texts, as JSON.

    Args:
        *choices: what may be among them; nothing for any text, which is checked where it is used.
    """

    def read(text: str) -> list[str] | None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        good = isinstance(found, list) and 0 < len(found) <= MOST
        if not good or not all(isinstance(one, str) for one in found):
            return None
        return [one for one in found if one in choices] if choices else [one[:200] for one in found]

    return read


def _whole(low: int, high: int, step: int = 1) -> Callable[[str], int | None]:
    """A whole number within bounds."""

    def read(text: str) -> int | None:
        value = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
        return value if low <= value <= high and value % step == 0 else None

    return read


READERS: Mapping[str, Callable[[str], Any]] = {
    "model": lambda text: text[:200],
    "weights": _one_of("pretrained", "random"),
    "activation": _one_of(FOUND, *ACTIVATIONS),
    "measured_in": lambda text: text[:MAX_UNIT],
    "target": _class,
    "versus": _class,
    "unit": _one_of("logit", "probability"),
    "against": _flag,
    "method": lambda text: text if text in METHODS else None,
    "layer": lambda text: text[:200],
    "crop": _crop,
    "settings": _settings,
    "colormap": _one_of("auto", *COLORMAPS),
    "alpha": _share(0, 1),
    "strongest": _share(1, 100),
    "fade": _flag,
    "smooth": _flag,
    "compare.what": _one_of(*WHAT),
    "compare.methods": _texts(),
    "compare.layer": lambda text: text[:200],
    "compare.method": lambda text: text if text in METHODS else None,
    "compare.models": _texts(),
    "compare.own_class": _flag,
    "metrics.methods": _texts(),
    "metrics.metrics": _texts(*METRICS),
    "metrics.layer": lambda text: text[:200],
    "metrics.random_maps": _whole(0, MAX_RANDOM_MAPS),
    "features.layer": lambda text: text[:200],
    "features.by": _one_of("activation", "variance"),
    "features.top": _whole(4, 64, step=4),
}
"""How the value of each field is read; None where it cannot be used."""

"""The ways out of an error as options of the command line."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from core.errors import Field, WayOut
from core.methods.base import METHODS
from core.registry import key_of, split_names

OPTIONS: Mapping[Field, tuple[str, ...]] = {
    "model": ("models", "model"),
    "weights": ("weights",),
    "method": ("methods", "method"),
    "layer": ("layer",),
    "target": ("target",),
}
"""The options that set a field, of which a command has one. None sets the class to compare with:
that is a part of ``--target``."""


def options_to_try(ways_out: Iterable[WayOut], arguments: argparse.Namespace) -> list[str]:
    """What to write in place of an option, or beside the others, as far as the command has it.

    Args:
        ways_out: of an error.
        arguments: of the command that failed.

    >>> failed = argparse.Namespace(methods="lime(samples=20),gradcan", target=None)
    >>> options_to_try([WayOut("method", "gradcam", ""), WayOut("layer", "bn2", "")], failed)
    ["--methods 'lime(samples=20),gradcam'"]
    """
    found = (_option(way, arguments) for way in ways_out)
    return list(dict.fromkeys(option for option in found if option))


def lines_to_try(ways_out: Iterable[WayOut], arguments: argparse.Namespace) -> str:
    """A line for each option of `options_to_try`, to stand below the error's sentence."""
    return "".join(f"try: {option}\n" for option in options_to_try(ways_out, arguments))


def _option(way: WayOut, arguments: argparse.Namespace) -> str:
    given = vars(arguments)
    several = len(split_names(given.get("models") or "")) > 1
    if several and way.field in ("weights", "layer", "target"):  # it would change the other models
        return ""
    names = [name for name in OPTIONS.get(way.field, ()) if name in given]
    name = next((name for name in names if given[name]), names[0] if names else "")
    if way.field == "layer" and (methods := list(_with_layer(way, given))):
        return methods[0]
    if not name:
        return ""
    value = str(way.value)
    if name in ("methods", "models"):
        value = _replaced(split_names(given[name] or ""), value, name == "methods")
    return f"--{name} {shlex.quote(value)}"


def _with_layer(way: WayOut, given: Mapping[str, object]) -> Iterator[str]:
    """The option that names methods at a layer of their own, with the layer changed."""
    for name in OPTIONS["method"]:
        text = str(given.get(name) or "")
        if "@" in text:
            changed = re.sub(r"@[^,(]+", lambda _: f"@{way.value}", text)
            yield f"--{name} {shlex.quote(changed)}"


def _replaced(names: list[str], value: str, of_methods: bool) -> str:
    """Names with a better one in place of the one that failed, which it resembles."""
    wrong = [name for name in names if not of_methods or key_of(name) not in METHODS] or names
    near = difflib.get_close_matches(value, wrong, n=1, cutoff=0)
    return ",".join(value if name in near else name for name in names) or value

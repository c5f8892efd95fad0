"""What the commands share."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.errors import TimmscopeError
from core.methods.base import METHODS
from core.metrics.base import METRICS
from core.registry import P, Registry


def parse_settings(pairs: Sequence[str]) -> dict[str, dict[str, object]]:
    """Parameters by method or metric from ``key.param=value`` strings.

    >>> parse_settings(["integrated_gradients.steps=20"])
    {'integrated_gradients': {'steps': '20'}}
    """
    settings: dict[str, dict[str, object]] = {}
    for pair in pairs:
        match = re.fullmatch(r"([\w+]+)\.(\w+)=(.*)", pair, re.DOTALL)
        if match is None:
            raise TimmscopeError(f"--set {pair!r} is not of the form key.param=value")
        key, name, value = match.groups()
        owner = METRICS[key] if key in METRICS else METHODS[key]
        settings.setdefault(owner.key, {})[name] = value
    return settings


def made(registry: Registry[P], keys: str, settings: dict[str, dict[str, object]]) -> list[P]:
    """Members of a registry by comma separated keys; settings that concern them are taken out."""
    wanted = dict.fromkeys(registry[key.strip()].key for key in keys.split(",") if key.strip())
    return [registry.make(key, settings.pop(key, {})) for key in wanted]


def prepare(folder: Path | None) -> None:
    """Find out before the work whether its files can be written."""
    if folder is not None:
        with writing(folder):
            tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A block that writes into `folder`, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise TimmscopeError(f"cannot write to {str(folder)!r}: {error.strerror}") from None


def to_json(answer: object) -> str:
    """JSON in ASCII: it can be written whatever the encoding of stdout or of a file's name."""
    return json.dumps(answer, allow_nan=False, indent=2)

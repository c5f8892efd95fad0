"""What a long measurement has found so far, so that it can go on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What a journal holds, none where there is no file; a line cut off in writing is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def add(path: Path, told: dict[str, Any]) -> None:
    """Write a line, beginning a new one whatever was cut off; several processes may at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{json.dumps(told)}")


def once(path: Path, name: str, kind: type[T], find: Callable[[], T]) -> T:
    """What a journal holds under a name; else what is found now, which it then holds.

    Args:
        path: the journal.
        name: of the thing, and of all that decides how it comes out.
        kind: a class whose attributes are numbers, texts, arrays, and its arguments too.
        find: finds it.
    """
    told = next((line["told"] for line in lines(path) if line["name"] == name), None)
    if told is None:
        found = find()
        told = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(found).items()}
        add(path, {"name": name, "told": told})
    return kind(**{k: np.array(v) if isinstance(v, list) else v for k, v in told.items()})

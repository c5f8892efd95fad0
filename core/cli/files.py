"""Names of the files that commands write: nothing of another request is overwritten."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from core.export import request_of

_NOT_ASKED = {"command", "log_level", "output_dir", "images", "image", "save", "device"}
"""Arguments that change no answer, or say only where it goes."""


def request_key(arguments: argparse.Namespace, picture: str) -> str:
    """Identifies a request: the picture and all arguments that change the answer.

    Args:
        arguments: parsed.
        picture: identifies the picture.
    """
    facts = {k: str(v) for k, v in sorted(vars(arguments).items()) if k not in _NOT_ASKED}
    text = json.dumps([picture.encode("utf-8", "surrogateescape").hex(), facts])
    return blake2b(text.encode(), digest_size=8).hexdigest()


class ResultFiles:
    """Gives names to files in a folder.

    A file of the same request is replaced. If one of another request, or anything else, has the
    name, the next number is appended. Names that differ only by case or by how an accent is
    written count as the same, because on some file systems they are.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._given: set[str] = set()

    def stem(self, stem: str, ends: Sequence[str], request: str) -> str:
        """The beginning of the names of files that belong together.

        Args:
            stem: what they should begin with.
            ends: the rest of their names, from the dot on.
            request: identifies the request, see `request_key`.
        """
        there: dict[str, list[Path]] = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            there.setdefault(_same(path.name), []).append(path)
        for number in itertools.count(1):
            tried = stem if number == 1 else f"{stem}-{number}"
            names = [_same(f"{tried}{end}") for end in ends]
            if not self._given.isdisjoint(names):
                continue
            if all(request_of(p) == request for name in names for p in there.get(name, ())):
                self._given.update(names)
                return tried
        raise AssertionError  # pragma: no cover  the numbers do not end


def distinct(names: Sequence[str]) -> list[str]:
    """Names for files, numbered where two of them are the same on some file system.

    >>> distinct(["gradcam@A", "gradcam@a", "lime"])
    ['gradcam@A', 'gradcam@a-2', 'lime']
    """
    found: list[str] = []
    for name in names:
        tried = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        taken = {_same(one) for one in found}
        found.append(next(one for one in tried if _same(one) not in taken))
    return found


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; when all is written, the file takes the place of `path`.

    So a file is whole or not there, whatever interrupts the writing.
    """
    part = path.with_name(f".{os.getpid()}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

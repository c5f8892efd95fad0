"""Pictures named on the command line: files, folders, patterns and standard input."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from core.errors import PictureError, TimmscopeError
from core.evaluation.evaluate import picture_files
from core.inputs.image import MAX_BYTES, is_address, open_picture
from core.inputs.samples import sample_names
from core.inputs.tiff import is_tiff

HELP = (
    "files, folders, patterns such as 'photos/*.jpg', - for standard input, or a sample such as "
    "coffee"
)
"""What the commands take as pictures, for their help."""


@dataclass(frozen=True, slots=True)
class Named:
    """One picture, not read yet.

    Attributes:
        name: as in the report.
        source: the file or its bytes.
    """

    name: str
    source: Path | bytes

    @property
    def stem(self) -> str:
        """What its files are called."""
        return self.source.stem if isinstance(self.source, Path) else "stdin"

    @property
    def identity(self) -> str:
        """Which picture it is: the whole path, or the bytes."""
        if isinstance(self.source, Path):
            return os.path.realpath(self.source)
        return blake2b(self.source, digest_size=16).hexdigest()


def named_pictures(words: Sequence[str]) -> list[Named]:
    """The pictures that words name, in order; folders and patterns are sorted by name.

    A file of that very name comes before a pattern. "-" reads standard input: a picture, or the
    names of pictures, one a line.

    Args:
        words: of the command line.

    Raises:
        TimmscopeError: a folder, a pattern or standard input holds no picture.
    """
    return list(_expanded(words))


def named_files(words: Sequence[str]) -> list[Path]:
    """As `named_pictures`, where a picture must be a file.

    Raises:
        TimmscopeError: a picture came as bytes, or there is none.
    """
    found: list[Path] = []
    for picture in named_pictures(words):
        if not isinstance(picture.source, Path):
            raise TimmscopeError(
                "- holds a picture; give names here, or save the picture as a file"
            )
        found.append(picture.source)
    return picture_files(found)


def require_one_readable(pictures: Iterable[Named]) -> None:
    """Finds out whether any of the pictures can be read, before a model is loaded.

    Channels and white are the model's affair, so a TIFF counts as readable.

    Raises:
        PictureError: none can be; the reason of the first.
    """
    reason = None
    for picture in pictures:
        try:
            open_picture(picture.source, name=picture.stem if picture.name == "-" else None)
        except PictureError as error:
            if _is_tiff(picture.source) or "value_range" in str(error):
                return
            reason = reason or error
        else:
            return
    if reason is not None:
        raise reason


def _is_tiff(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return is_tiff(source[:4])
    try:
        with source.open("rb") as file:
            return is_tiff(file.read(4))
    except (OSError, ValueError):
        return False


def _expanded(words: Iterable[str]) -> Iterator[Named]:
    for word in words:
        if word == "-":
            yield from _from_stdin()
        elif is_address(word):
            raise TimmscopeError(
                f"{word[:80]!r} is an address, and nothing is downloaded; save the picture as a "
                "file and give its path"
            )
        elif os.path.isdir(word):  # noqa: PTH112  unlike Path, False for an invalid name
            yield from _from_folder(Path(word))
        elif not os.path.lexists(word) and re.search(r"[*?\[]", word):
            yield from _from_pattern(word)
        elif not os.path.lexists(word) and word in (samples := sample_names()):
            yield Named(samples[word].name, samples[word])
        else:
            yield Named(word, Path(word))


def _from_folder(folder: Path) -> Iterator[Named]:
    try:
        files = picture_files([folder])
    except TimmscopeError:
        raise TimmscopeError(
            f"folder {folder.name or str(folder)!r} has no pictures; name their files, or another"
        ) from None
    yield from (Named(str(file), file) for file in files)


def _from_pattern(pattern: str) -> Iterator[Named]:
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  as the shell reads it
    found = [name for name in names if Path(name).is_file()]
    if not found:
        raise TimmscopeError(f"no file fits the pattern {pattern[:80]!r}; check it and its folder")
    yield from (Named(name, Path(name)) for name in found)


def _from_stdin() -> Iterator[Named]:
    content = sys.stdin.buffer.read(MAX_BYTES + 1)
    if not content.strip():
        raise TimmscopeError("- holds nothing; pipe a picture into it, or names of pictures")
    if not _is_text(content):
        yield Named("-", content)
        return
    lines = re.split(rb"[\r\n\0]+", content)
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if "-" in names:
        raise TimmscopeError("- holds the name '-'; write ./- for a file of that name")
    yield from _expanded(names)


def _is_text(content: bytes) -> bool:
    """Whether bytes are names and no picture; portable pixmaps can be text as well."""
    head = content[:4096]
    if re.match(rb"P[1-6]\s", head):
        return False
    return all(byte >= 32 or byte in b"\t\r\n\0" for byte in head) and head[:1] != b"\0"

"""Results kept in a file as they come, so that long work can go on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np

from core.errors import TimmscopeError
from core.evaluation.rows import SUFFIXES, Row, write_rows

T = TypeVar("T")


class JsonLines:
    """A file of JSON objects, one a line; several processes may append to it.

    Each line is handed to the operating system before the next. A line that was cut off in writing
    is ignored. Use as
    a context manager, which closes the file.

    Args:
        path: the file; it and its folder are made when the first line is appended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def read(self) -> list[dict[str, Any]]:
        """The objects of all whole lines; empty if there is no file."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        found = (_parsed(line) for line in text.split("\n"))
        return [facts for facts in found if facts is not None]

    def append(self, facts: Mapping[str, Any]) -> None:
        """Write a line."""
        if self._file is None:
            self._file = self._opened()
        self._file.write(f"{json.dumps(facts)}\n".encode())
        self._file.flush()

    def _opened(self) -> IO[bytes]:
        """The file, ready to append; a line that was cut off is ended first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab+")
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        return file

    def once(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """The result kept under a name; if there is none, it is computed and kept.

        Args:
            name: names the result and all that decides it.
            kind: the class of the result; its attributes are numbers, texts and arrays, and its
                arguments have the same names.
            compute: gives the result.
        """
        kept = next((line["result"] for line in self.read() if line["name"] == name), None)
        if kept is None:
            facts = vars(compute())
            kept = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in facts.items()}
            self.append({"name": name, "result": kept})
        return kind(**{k: np.array(v) if isinstance(v, list) else v for k, v in kept.items()})

    def close(self) -> None:
        """Close the file; appending opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        facts = json.loads(line)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


class Journal(JsonLines):
    """The rows of a table that is not finished; the first line says what was asked.

    Args:
        table: where the finished table goes; the journal lies beside it, with ".partial" appended
            to its name.
        question: all that decides the rows.
        resume: whether to continue a journal that is there.

    Attributes:
        rows: those found so far.

    Raises:
        TimmscopeError: the table has an unknown suffix; or there is a journal, and it is not to be
            continued, cannot be read or answers another question.
    """

    def __init__(self, table: Path, question: Mapping[str, Any], resume: bool) -> None:
        if table.suffix.lower() not in SUFFIXES:
            raise TimmscopeError(
                f"cannot write rows as {table.suffix!r}; name a file that ends in "
                f"{', '.join(SUFFIXES)}"
            )
        super().__init__(table.with_name(f"{table.name}.partial"))
        self.table = table
        self.rows: list[Row] = []
        asked = json.loads(json.dumps(question))
        if self.path.exists():
            self.rows = self._kept(asked, resume)
        else:
            self.append(asked)

    def _kept(self, asked: Mapping[str, Any], resume: bool) -> list[Row]:
        """The rows of the journal that is there."""
        if not resume:
            raise TimmscopeError(
                f"{str(self.path)!r} is left from work that did not end; go on with --resume, or "
                "delete it"
            )
        try:
            first, *rest = self.read()
            rows = [Row(**facts) for facts in rest]
        except (ValueError, TypeError) as error:
            raise TimmscopeError(
                f"{str(self.path)!r} cannot be read ({error}); delete it"
            ) from None
        if first != asked:
            different = sorted(k for k in {*first, *asked} if first.get(k) != asked.get(k))
            raise TimmscopeError(
                f"{str(self.path)!r} was begun with another {', '.join(different)}; ask the same, "
                "or delete it"
            )
        return rows

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        self.append(row.facts())

    def finish(self) -> None:
        """Write the table and delete the journal."""
        write_rows(self.table, self.rows)
        self.close()
        self.path.unlink()

"""Rows kept as they come, so that long work can go on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from core.errors import TimmscopeError
from core.evaluation.rows import Row, write_rows

SUFFIXES = (".csv", ".json", ".parquet")


class Journal:
    """A file beside the table to come, with the question in its first line and then row by row.

    Args:
        table: where the finished table goes; its name and ".partial" is the journal's.
        question: all that decides what the rows say.
        resume: go on with a journal that is there.

    Raises:
        TimmscopeError: the table's kind is unknown; there is a journal, and it is not to be gone on
            with, or it answers another question.
    """

    def __init__(self, table: Path, question: Mapping[str, Any], resume: bool) -> None:
        if table.suffix.lower() not in SUFFIXES:
            raise TimmscopeError(
                f"cannot write rows as {table.suffix!r}; name a file that ends in "
                f"{', '.join(SUFFIXES)}"
            )
        self.table = table
        self.path = table.with_name(f"{table.name}.partial")
        self.rows: list[Row] = []
        asked = json.loads(json.dumps(question))
        if self.path.exists():
            self._go_on(asked, resume)
        else:
            self.path.write_text(json.dumps(asked) + "\n", encoding="utf-8")
        self._file: IO[str] = self.path.open("a", encoding="utf-8")

    def _go_on(self, asked: Any, resume: bool) -> None:
        if not resume:
            raise TimmscopeError(
                f"{str(self.path)!r} is left from work that did not end; go on with --resume, or "
                "delete it"
            )
        lines = self.path.read_text(encoding="utf-8").split("\n")
        whole = lines[:-1]  # what follows the last line break was cut off in writing
        try:
            first, *rest = [json.loads(line) for line in whole]
            self.rows = [Row(**facts) for facts in rest]
        except (ValueError, TypeError) as error:
            raise TimmscopeError(
                f"{str(self.path)!r} cannot be read ({error}); delete it"
            ) from None
        if first != asked:
            odd = sorted(k for k in {*first, *asked} if first.get(k) != asked.get(k))
            raise TimmscopeError(
                f"{str(self.path)!r} was begun with another {', '.join(odd)}; ask the same, or "
                "delete it"
            )
        self.path.write_text("\n".join([*whole, ""]), encoding="utf-8")

    def add(self, row: Row) -> None:
        """Keep a row, on the disk before the next."""
        self.rows.append(row)
        self._file.write(json.dumps(row.facts()) + "\n")
        self._file.flush()

    def finish(self) -> None:
        """Write the table and take the journal away."""
        write_rows(self.table, self.rows)
        self._file.close()
        self.path.unlink()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

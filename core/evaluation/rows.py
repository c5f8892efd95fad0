"""Row: the score of one method on one picture by one metric, and tables of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

RowKey = tuple[str, str, str]
"""Picture, method and metric of a row."""
SUFFIXES = (".csv", ".json", ".parquet")
"""The formats in which rows can be written."""
_TYPES = {
    **dict.fromkeys(("picture", "method", "metric"), "string"),
    **dict.fromkeys(("value", "low", "high", "percentile"), "float64"),
    "target": "string",
    **dict.fromkeys(("forward", "backward"), "int64"),
    "seconds": "float64",
    "error": "string",
}
"""The columns of a table, and what they hold."""


@dataclass(frozen=True, slots=True)
class Row:
    """The score of one method on one picture by one metric.

    Attributes:
        picture: the file.
        method: the method's name; the controls are methods too.
        metric: the metric's name.
        value: the score; None if there is none or it is not finite.
        low: the lower end of the score's 95% interval; None if it has none.
        high: the upper end.
        percentile: share of random maps that score worse, in per cent; None if not asked for.
        target: what was explained.
        forward: rows sent forward through the model, for the map and the score.
        backward: rows differentiated, for the map and the score.
        seconds: the time both took.
        error: why there is no score; empty otherwise.
    """

    picture: str
    method: str
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    percentile: float | None = None
    target: str = ""
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def key(self) -> RowKey:
        """What the row is about, by which it is known."""
        return self.picture, self.method, self.metric

    def facts(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table with a line for each row and a column for each field of `Row`.

    Args:
        path: a file that ends in one of `SUFFIXES`, which decides the format. JSON is a list of
            objects.
        rows: in order.

    Raises:
        OSError: the file cannot be written.
    """
    if path.suffix.lower() == ".json":
        # Not by pandas, which rounds numbers to 15 digits.
        text = json.dumps([row.facts() for row in rows], indent=1)
        path.write_text(f"{text}\n", encoding="utf-8")
        return
    table = to_frame(rows)
    if path.suffix.lower() == ".csv":
        table.to_csv(path, index=False, lineterminator="\r\n", encoding="utf-8")
    else:
        table.to_parquet(path, index=False)


def to_frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """Rows as a table of pandas: a line for each row, a column for each field of `Row`."""
    import pandas  # here: it takes seconds to import

    table = pandas.DataFrame([row.facts() for row in rows], columns=list(_TYPES))
    return table.astype(_TYPES)

"""Row: what one metric says of one method on one picture, and tables of rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

RowKey = tuple[str, str, str]
"""Picture, method and metric of a row."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one metric says of one method on one picture.

    Attributes:
        picture: the file.
        method: the method's key; the controls are among them.
        metric: the metric's key.
        value: the score; None where there is none.
        low: the lower end of its 95% interval, where it has one.
        high: the upper end.
        percentile: where the map stands among random ones, if that was asked and applies.
        target: what was explained.
        forward: rows sent forward for the map and the score.
        backward: rows differentiated.
        seconds: they took.
        error: why there is no score.
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
        """What the row is about."""
        return self.picture, self.method, self.metric

    def facts(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A table of rows as CSV, JSON or Parquet, by the file's suffix."""
    names = [field.name for field in fields(Row)]
    facts = [row.facts() for row in rows]
    if path.suffix.lower() == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(facts)
    elif path.suffix.lower() == ".json":
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    else:
        # Imported where needed: it takes long, and few ask for it.
        import pyarrow
        import pyarrow.parquet

        kinds = {"forward": pyarrow.int64(), "backward": pyarrow.int64()}
        kinds |= dict.fromkeys(("value", "low", "high", "percentile", "seconds"), pyarrow.float64())
        schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in names])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(facts, schema), path)

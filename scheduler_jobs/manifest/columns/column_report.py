"""What became of every column of a manifest, with one value as an example."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from imagemill.scheduler_jobs.manifest.columns.layout import Layout
from imagemill.scheduler_jobs.manifest.raw_rows import JSON

MOST_COLUMNS = 1000
"""How many columns are kept. Every row of JSON Lines may have keys of its own."""

_EXAMPLE_CHARACTERS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnReport:
    """One column: `field` is what it fills, or what a refused one looks like.

    An extra has no field, and neither has a refused setting of another tool. `example` is the
    column's first value that is not empty, None if no such value was read.
    """

    column: str
    role: Literal["field", "extra", "refused"]
    field: str | None = None
    example: str | None = None


class ColumnReports:
    """Collects the columns of a manifest while its rows are read, up to `MOST_COLUMNS`."""

    def __init__(self) -> None:
        self._columns: dict[str, ColumnReport] = {}
        self._without_example: set[str] = set()

    def note(self, columns: Sequence[str], layout: Layout) -> None:
        """Note the columns of rows that are read by this layout."""
        fields = {column: field for field, column in layout.fields.items()}
        for column in columns:
            if column in layout.refused:
                self.refuse(column, layout.refused[column])
            elif column in fields:
                self._add(ColumnReport(column=column, role="field", field=fields[column]))
            else:
                self._add(ColumnReport(column=column, role="extra"))

    def take_examples(self, cells: Mapping[str, JSON]) -> None:
        """Take examples from a row, for the columns that have none yet."""
        # Empty for most rows: then a row costs no more than this question.
        if not self._without_example:
            return
        for column in self._without_example.intersection(cells):
            value = cells[column]
            if value is not None and value != "":
                example = replace(self._columns[column], example=_shown(value))
                self._columns[column] = example
                self._without_example.discard(column)

    def refuse(self, column: str, field: str | None = None) -> None:
        """Note that a column was refused, whatever it was in other rows."""
        found = ColumnReport(column=column, role="refused", field=field)
        known = self._columns.get(column)
        if known is None:
            self._add(found)
        else:
            self._columns[column] = replace(found, example=known.example)

    def keep(self, column: str) -> None:
        """Note that a column was kept as an extra, because of its values."""
        known = self._columns.get(column)
        if known is not None:
            self._columns[column] = replace(known, role="extra", field=None)

    def found(self) -> tuple[ColumnReport, ...]:
        """The columns, in the order in which they were first seen."""
        return tuple(self._columns.values())

    def _add(self, found: ColumnReport) -> None:
        if found.column not in self._columns and len(self._columns) < MOST_COLUMNS:
            self._columns[found.column] = found
            self._without_example.add(found.column)


def _shown(value: JSON) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    cut = text[:_EXAMPLE_CHARACTERS]
    return text if len(text) <= len(cut) else f"{cut[:-1]}…"

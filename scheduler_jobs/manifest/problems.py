"""The errors of a manifest.

A `Problem` is for people. The readers use `BadValue` and `Broken` among each other; neither leaves
this package.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from imagemill.db.documents import JSON
from imagemill.db.process.logs import printable

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One finding in a manifest.

    `row` is the data row, counted from 1 without a header. `line` is the physical line, counted
    from 1. Each is None if the finding is not about a row, line or column. `found` is the content,
    `allowed` is what it may be.
    """

    file: str
    row: int | None = field(default=None, metadata={JSON: "row_number"})
    line: int | None = None
    column: str | None = None
    found: str
    allowed: str

    def __str__(self) -> str:
        """One printable line: `file:row: column: found; allowed`."""
        where = self.file
        if self.row is not None:
            where += f":{self.row}"
        elif self.line is not None:
            where += f": line {self.line}"
        if self.column is not None:
            where += f": {self.column}"
        return printable(f"{where}: {self.found}; {self.allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowText:
    """A piece of a row's text. `file` is None where the manifest is a single file.

    `row` counts in that file, from 1.
    """

    file: str | None = None
    row: int = field(metadata={JSON: "row_number"})
    text: str


class BadValue(ValueError):
    """A value that is not allowed in its place."""

    def __init__(self, found: str, allowed: str) -> None:
        super().__init__(f"{found}; {allowed}")
        self.found = found
        self.allowed = allowed


class Broken(Exception):
    """Nothing after this point of the file can be read."""

    def __init__(
        self, found: str, allowed: str, *, line: int | None = None, column: str | None = None
    ) -> None:
        super().__init__(f"{found}; {allowed}")
        self.found = found
        self.allowed = allowed
        self.line = line
        self.column = column


def shown(value: Any) -> str:
    """A value for a message: as JSON, cut to a readable length."""
    if isinstance(value, str):
        # It is cut before it is quoted, so that a megabyte need not be escaped.
        text = json.dumps(value[: _SHOWN_CHARACTERS + 1], ensure_ascii=False)
    elif isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 77 digits"
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except RecursionError:
            return "a deeply nested value"
    if len(text) > _SHOWN_CHARACTERS + 2:
        text = text[:_SHOWN_CHARACTERS] + "…"
    return printable(text)

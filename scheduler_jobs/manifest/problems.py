"""What can be wrong with a manifest, as values.

A `Problem` is for people. `BadValue` and `Broken` are how the readers report to each other:
neither leaves this package.
"""

import json
from dataclasses import dataclass
from typing import Any

from imagemill.db.logs import printable

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One finding in a manifest.

    `row` is the 1-based data row (a header is not counted), `line` the 1-based physical line;
    None where the finding is about no row, line or column. `found` says what stands there,
    `allowed` what may.
    """

    file: str
    row: int | None = None
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


class BadValue(ValueError):
    """One value that may not stand where it stands."""

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
    """A value as it is quoted in a message: JSON, cut to a readable length."""
    if isinstance(value, str):
        # Cut before quoting: a megabyte is not worth escaping.
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

"""What every format's reader yields: a row's cells, not yet interpreted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

HeaderCheck = Callable[[tuple[str, ...], int | None], None]
"""Called with a table's column names and its header's line; raises `Broken` if they won't do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One data row as it stands in the file.

    `number` counts data rows from 1, `line` is the physical line it starts on (0 in Parquet).
    `verbatim` is its text without the line's end. `cells` holds every column in order; a None
    says nothing, as an absent column does.
    """

    number: int
    line: int
    verbatim: str
    cells: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A data row that can't be taken apart; the next one can."""

    number: int
    line: int
    found: str
    allowed: str
    column: str | None = None

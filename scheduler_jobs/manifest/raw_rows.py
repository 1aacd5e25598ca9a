"""The output of every format's reader: a row's cells, not yet interpreted."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

HeaderCheck = Callable[[tuple[str, ...], int | None], None]
"""Called with a table's column names and its header's line. Raises `Broken` if they are wrong."""


# Not frozen: every row needs one, and a frozen one takes six times as long to make.
@dataclass(kw_only=True, slots=True)
class RawRow:
    """One data row of the file.

    `number` counts data rows from 1. `line` is the physical line where it starts (0 in Parquet).
    `verbatim` is its text without the line end. `cells` has every column in order; None means the
    same as a missing column.
    """

    number: int
    line: int
    verbatim: str
    cells: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A data row that can't be read. The rows after it can."""

    number: int
    line: int
    found: str
    allowed: str
    column: str | None = None


def without_nan(value: JSON) -> JSON:
    """An extra with NaN and infinity as null: Arrow has them where JSON has nothing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return value

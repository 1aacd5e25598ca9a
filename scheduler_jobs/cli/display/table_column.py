"""What a table says about its columns."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A table's column. If the window is too narrow, `elastic` columns are cut.

    Columns of names that a person may copy are `whole`: if they do not fit beside each other, each
    row of the table becomes a few lines. One that is both is wrapped within its column.
    """

    title: str
    right: bool = False
    elastic: bool = False
    whole: bool = False

"""What `plan`, `submit` and `run` say of a manifest's columns."""

from collections.abc import Sequence

from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.manifest import ColumnReport
from imagemill.scheduler_jobs.manifest.columns.fields import FIELDS, PROMPT

SHOWN_COLUMN_CHARACTERS = 30
SHOWN_EXAMPLE_CHARACTERS = 40
SHOWN_EXTRAS = 12


def print_columns(columns: Sequence[ColumnReport]) -> None:
    """A table of what became of every column; none for a file of prompts alone."""
    if {each.field for each in columns} <= {PROMPT}:
        return
    output.line()
    output.table(
        (Column(title="COLUMN"), Column(title="BECOMES"), Column(title="EXAMPLE", elastic=True)),
        (
            (
                output.shortened(each.column, SHOWN_COLUMN_CHARACTERS),
                _became(each),
                output.fitted(each.example or "", SHOWN_EXAMPLE_CHARACTERS),
            )
            for each in columns
        ),
    )


def _became(column: ColumnReport) -> str:
    if column.role == "refused":
        return f"refused ({f'like {column.field}' if column.field else 'not a setting here'})"
    if column.field is None:
        return "extra"
    return FIELDS[column.field].becomes or column.field


def print_extras(columns: Sequence[ColumnReport]) -> None:
    """Name the columns that change no picture, in one line."""
    extras = [each.column for each in columns if each.role == "extra"]
    if not extras:
        return
    names = ", ".join(
        output.shortened(name, SHOWN_COLUMN_CHARACTERS) for name in extras[:SHOWN_EXTRAS]
    )
    more = f" and {len(extras) - SHOWN_EXTRAS:,} more" if len(extras) > SHOWN_EXTRAS else ""
    output.line(f"kept as {plural(len(extras), 'extra')}, without effect: {names}{more}")

"""Rows that may not mean what is done with them: one line for each kind, with the first of them."""

from collections.abc import Sequence

from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.manifest import RowText
from imagemill.scheduler_jobs.submit.planning.idle_values import IdleRows
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import ForeignRows

SHOWN_PIECE_CHARACTERS = 30
_READERS = {
    "templates": "--variants all reads them, ",
    "weights": "--prompt-weighting true reads them, ",
}
"""How to have another tool's syntax read as it is meant, where there is a way."""


def place(example: RowText) -> str:
    """Where a row is: its number, with its file where there are several."""
    return f"row {example.row}" if example.file is None else f"{example.file}:{example.row}"


def print_foreign(found: Sequence[ForeignRows]) -> None:
    """Print how many rows have another tool's syntax, one line for each kind."""
    for each in found:
        output.line(
            f"{plural(each.rows, 'row')} with another tool's {each.kind}, which the model reads "
            f"as words ({_rows(each)}); {_READERS.get(each.kind, '')}--strict refuses them"
        )


def print_idle(found: Sequence[IdleRows]) -> None:
    """Print how many rows have a value without effect, one line for each column."""
    for each in found:
        output.line(
            f"{plural(each.rows, 'row')} with a {each.column} without effect ({_rows(each)}): "
            f"{each.beside}"
        )


def _rows(found: ForeignRows | IdleRows) -> str:
    rows = ", ".join(
        f"{place(example)}: {output.fitted(example.text, SHOWN_PIECE_CHARACTERS)}"
        for example in found.examples
    )
    return rows + (", …" if found.rows > len(found.examples) else "")

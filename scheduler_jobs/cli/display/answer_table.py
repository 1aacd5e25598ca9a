"""The answer of a query as a table: fitted to a terminal, whole everywhere else."""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import click
from rich.cells import cell_len

from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.reading.cells import text_value

SHOWN_ROWS = 100
"""Rows that a terminal gets; a file or a program gets all of them."""

SHOWN_CHARACTERS = 60
SHOWN_NAMES = 3
_GAP = 2

Page = Sequence[Sequence[Any]]


def print_answer(columns: Sequence[str], pages: Iterator[list[tuple[Any, ...]]]) -> None:
    """Print the rows; on a terminal as many as are read at a glance, and say what is left out."""
    if sys.stdout.isatty():
        _fitted(columns, (row for page in pages for row in page))
    else:
        _whole(columns, pages)


def _fitted(columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
    shown = [row for _, row in zip(range(SHOWN_ROWS), rows, strict=False)]
    texts = [[output.clean(text_value(cell)) for cell in row] for row in shown]
    cut = [[output.shortened(text, SHOWN_CHARACTERS) for text in row] for row in texts]
    kept = _columns_that_fit(columns, cut)
    wide = any(len(text) > SHOWN_CHARACTERS for row in texts for text in row[:kept])
    right = _numbers(len(columns), shown)
    output.table(
        [Column(title=columns[n], right=right[n], elastic=kept == 1) for n in range(kept)],
        (row[:kept] for row in cut),
    )
    left_out = []
    if kept < len(columns):
        rest = columns[kept:]
        more = [*rest[:SHOWN_NAMES], "…"] if len(rest) > SHOWN_NAMES else rest
        named = output.shortened(", ".join(more), SHOWN_CHARACTERS)
        left_out.append(f"{plural(len(rest), 'more column')} ({named})")
    if next(rows, None) is not None:
        left_out.append(f"rows after the first {SHOWN_ROWS}")
    if wide:
        left_out.append(f"texts after {SHOWN_CHARACTERS} characters")
    if left_out:
        output.line(f"not shown here: {'; '.join(left_out)}. --format csv has everything")
    elif not shown:
        output.line("no rows")


def _columns_that_fit(columns: Sequence[str], texts: Page) -> int:
    """How many columns the terminal has room for; at least one."""
    room = output.terminal_width() + _GAP
    for place, title in enumerate(columns):
        room -= _GAP + max(map(cell_len, (title, *(row[place] for row in texts))))
        if room < 0:
            return max(1, place)
    return len(columns)


def _whole(columns: Sequence[str], pages: Iterator[list[tuple[Any, ...]]]) -> None:
    """Columns as wide as their first page: a stream can't wait for its widest cell."""
    first: Page = next(pages, [])
    right = _numbers(len(columns), first)
    widths = [len(output.clean(title)) for title in columns]
    for row in first:
        for place, value in enumerate(row):
            widths[place] = max(widths[place], len(output.clean(text_value(value))))
    _plain_line(columns, widths, right)
    for page in chain([first], pages):
        for row in page:
            _plain_line([text_value(value) for value in row], widths, right)


def _plain_line(texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> None:
    cells = [
        text.rjust(width) if is_right else text.ljust(width)
        for text, width, is_right in zip(map(output.clean, texts), widths, right, strict=True)
    ]
    click.echo("  ".join(cells).rstrip())


def _numbers(count: int, rows: Page) -> list[bool]:
    """Which columns hold numbers alone: those stand at the right."""
    return [
        bool(rows)
        and all(
            row[place] is None
            or (isinstance(row[place], int | float) and not isinstance(row[place], bool))
            for row in rows
        )
        for place in range(count)
    ]

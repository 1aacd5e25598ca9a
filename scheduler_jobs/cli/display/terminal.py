"""How commands print on a terminal: with colours, and fitted to the window.

In a module of its own: rich takes a tenth of a second to import, and where a program reads the
output nothing of it is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from imagemill.scheduler_jobs.cli.display.table_column import Column

STYLES: Mapping[str, str] = MappingProxyType(
    {
        "done": "green",
        "finished": "green",
        "ok": "green",
        "dead": "red",
        "failed": "red",
        "rejected": "red",
        "open": "cyan",
        "leased": "cyan",
        "loading": "cyan",
        "paused": "yellow",
        "cancelled": "yellow",
        "nan": "yellow",
        "blank": "yellow",
        "truncated_prompt": "yellow",
        "running": "green",
        "restarting": "red",
        "stopped": "yellow",
    }
)
"""The colours of states and outcomes in tables."""

_WRAPPED_CELLS = 10
"""The least width of a column whose names are wrapped."""


def print_line(stream: TextIO, text: str, *, style: str) -> None:
    """Print one line in a style."""
    _console(stream).print(Text(text, style=style))


def print_marked(stream: TextIO, mark: str, text: str, *, style: str) -> None:
    """Print a short mark in a style, and a text beside it."""
    row = Table.grid(padding=(0, 1))
    row.add_column(width=6)
    row.add_column(overflow="fold")
    row.add_row(Text(mark, style=style), Text(text))
    _console(stream).print(row)


def print_pairs(stream: TextIO, facts: Iterable[tuple[str, str]], *, width: int) -> None:
    """Print names, `width` cells wide, and the values beside them."""
    console = _console(stream)
    for name, text in facts:
        if "://" in text and " " not in text:
            # The terminal wraps it, so that an address can be opened and copied in one piece.
            beside = Text.assemble((name.ljust(width), "dim"), "  ", text)
            console.print(beside, soft_wrap=True)
            continue
        row = Table.grid(padding=(0, 2))
        row.add_column(width=width, style="dim")
        row.add_column(overflow="fold")
        row.add_row(Text(name), Text(text, style=STYLES.get(text, "")))
        console.print(row)


def window_width(stream: TextIO) -> int:
    """Cells in a line of the window that shows the stream."""
    return _console(stream).width


def print_table(stream: TextIO, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of cleaned texts. If it is too wide, some columns are cut, or rows divided."""
    console = _console(stream)
    if any(column.whole for column in columns) and _width(columns, rows) > console.width:
        _paragraphs(console, columns, rows)
        return
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(
            column.title,
            justify="right" if column.right else "left",
            # Only columns that may wrap get narrower. Their texts are cut below, not wrapped.
            no_wrap=not column.elastic,
        )
    for row in rows:
        shown.add_row(*(_cell(cell, column) for cell, column in zip(row, columns, strict=True)))
    console.print(shown)


def _cell(cell: str, column: Column) -> Text:
    wrapped = column.elastic and column.whole
    overflow: Literal["fold", "ellipsis"] = "fold" if wrapped else "ellipsis"
    return Text(cell, style=STYLES.get(cell, ""), no_wrap=not wrapped, overflow=overflow)


def _width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """The cells that a table takes of which nothing that is whole is cut, nor any title."""
    width = 2 * (len(columns) - 1)
    for place, column in enumerate(columns):
        longest = max((cell_len(row[place]) for row in rows), default=0)
        if column.elastic:
            longest = min(longest, _WRAPPED_CELLS) if column.whole else 0
        width += max(longest, cell_len(column.title))
    return width


def _paragraphs(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Each row as its first cell, and under it the others that say something, wrapped."""
    titles = max(len(column.title) for column in columns[1:])
    for row in rows:
        console.print(Text(row[0], style="bold"))
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if not cell:
                continue
            shown = Table.grid(padding=(0, 2, 0, 0))
            shown.add_column(width=titles + 2)
            shown.add_column(overflow="fold")
            shown.add_row(Text(f"  {column.title.lower()}", style="dim"), Text(cell))
            console.print(shown)


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False, markup=False, emoji=False)

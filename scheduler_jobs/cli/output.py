"""Everything that commands print: tables and lines for people, one JSON object for programs.

Texts from manifests are shown without control and bidi characters; JSON has them exactly, with
escapes. On a terminal, tables have colours and fit the window. Elsewhere they are plain columns
without colours, and nothing is cut.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, TextIO

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from imagemill.db.documents import document as document_of

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

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead, as the last line."
)


_WRAPPED_CELLS = 10
"""The least width of a column whose names are wrapped."""


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


def emit(document: Mapping[str, Any]) -> None:
    """Print a JSON object as one line. Dataclasses and times become JSON; NaN is an error."""
    click.echo(json.dumps(document, default=_jsonable, allow_nan=False))


def line(text: str = "", *, error: bool = False, style: str | None = None) -> None:
    """Print one cleaned line; with `error`, to standard error."""
    stream = sys.stderr if error else sys.stdout
    if style is not None and stream.isatty():
        _console(stream).print(Text(clean(text), style=style))
    else:
        click.echo(clean(text), err=error)


def marked(mark: str, text: str, *, style: str = "") -> None:
    """Print a short mark (`ok`, `failed`) and a line. On a terminal the mark has a colour."""
    if sys.stdout.isatty():
        row = Table.grid(padding=(0, 1))
        row.add_column(width=6)
        row.add_column(overflow="fold")
        row.add_row(Text(mark, style=style), Text(clean(text)))
        _console(sys.stdout).print(row)
    else:
        click.echo(f"{mark:6} {clean(text)}")


def pairs(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair on each line. None and empty values are left out."""
    shown = [(name, value) for name, value in facts if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    console = _console(sys.stdout) if sys.stdout.isatty() else None
    for name, value in shown:
        text = clean(str(value))
        if console is None:
            click.echo(f"{name.ljust(width)}  {text}")
            continue
        row = Table.grid(padding=(0, 2))
        row.add_column(width=width, style="dim")
        row.add_column(overflow="fold")
        row.add_row(Text(name), Text(text, style=STYLES.get(text, "")))
        console.print(row)


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; None becomes an empty cell."""
    texts = [["" if cell is None else clean(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _terminal_table(columns, texts)
    else:
        _plain_table(columns, texts)


def terminal_width() -> int:
    """Cells in a line of the terminal that reads standard output."""
    return _console(sys.stdout).width


def clean(text: str) -> str:
    """The text on one line, without control, bidi and other unprintable characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\r\t" else "" for c in text)


def shortened(text: str, width: int) -> str:
    """The cleaned text, cut with an ellipsis if it is longer than `width` characters."""
    text = clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def fitted(text: str, width: int) -> str:
    """Like `shortened` on a terminal; whole if a file or a program reads it."""
    return shortened(text, width) if sys.stdout.isatty() else clean(text)


def number(value: float) -> str:
    """A number with thousands separators; with decimals only if it is small and not whole."""
    if isinstance(value, int) or value >= 100 or value == int(value):
        return f"{round(value):,}"
    return f"{value:,.1f}" if value >= 1 else f"{value:.2f}"


def rate(images_per_second: float) -> str:
    """`2.6 images/s`; `17 s an image` where images are slow."""
    if images_per_second < 0.1:
        return f"{duration(1 / images_per_second)} an image"
    return f"{number(images_per_second)} images/s"


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def moment(time: datetime | None) -> str | None:
    """A time in UTC, to the second."""
    return None if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(time: datetime | None, now: datetime | None = None) -> str | None:
    """How long ago a time was."""
    if time is None:
        return None
    return f"{duration(max(0.0, ((now or datetime.now(UTC)) - time).total_seconds()))} ago"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def _terminal_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    console = _console(sys.stdout)
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


def _plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    texts = [[column.title for column in columns], *rows]
    widths = [max(len(row[place]) for row in texts) for place in range(len(columns))]
    for row in texts:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return document_of(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")

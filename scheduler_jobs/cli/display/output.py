"""Everything that commands print: tables and lines for people, one JSON object for programs.

Texts from manifests are shown without control and bidi characters; JSON has them exactly, with
escapes. On a terminal, tables have colours and fit the window. Elsewhere they are plain columns
without colours, and nothing is cut.
"""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import click

from imagemill.db.documents import document as document_of
from imagemill.scheduler_jobs.cli.display import table_column

Column = table_column.Column
"""Commands find it beside `table`."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead, as the last line."
)

json_first_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the address as one JSON object, and go on."
)
"""For a server: what it prints when it is ready."""


def emit(document: Mapping[str, Any]) -> None:
    """Print a JSON object as one line. Dataclasses and times become JSON; NaN is an error."""
    click.echo(json.dumps(document, default=_jsonable, allow_nan=False))


def line(text: str = "", *, error: bool = False, style: str | None = None) -> None:
    """Print one cleaned line; with `error`, to standard error."""
    stream = sys.stderr if error else sys.stdout
    if style is not None and stream.isatty():
        _terminal().print_line(stream, clean(text), style=style)
    else:
        click.echo(clean(text), err=error)


def marked(mark: str, text: str, *, style: str = "") -> None:
    """Print a short mark (`ok`, `failed`) and a line. On a terminal the mark has a colour."""
    if sys.stdout.isatty():
        _terminal().print_marked(sys.stdout, mark, clean(text), style=style)
    else:
        click.echo(f"{mark:6} {clean(text)}")


def pairs(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair on each line. None and empty values are left out."""
    shown = [(name, clean(str(value))) for name, value in facts if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    if sys.stdout.isatty():
        _terminal().print_pairs(sys.stdout, shown, width=width)
        return
    for name, text in shown:
        click.echo(f"{name.ljust(width)}  {text}")


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; None becomes an empty cell."""
    texts = [["" if cell is None else clean(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _terminal().print_table(sys.stdout, columns, texts)
    else:
        _plain_table(columns, texts)


def terminal_width() -> int:
    """Cells in a line of the terminal that reads standard output."""
    return int(_terminal().window_width(sys.stdout))


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


def offered(command: str) -> str:
    """A command that a message offers, in backticks, as it works here: with this one's `--home`."""
    context = click.get_current_context(silent=True)
    home = context.find_root().params.get("home") if context else None
    place = f"--home {shlex.quote(str(home))} " if home else ""
    return f"`imagemill {place}{command}`"


def _plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    texts = [[column.title for column in columns], *rows]
    widths = [max(len(row[place]) for row in texts) for place in range(len(columns))]
    for row in texts:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return document_of(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _terminal() -> ModuleType:
    from imagemill.scheduler_jobs.cli.display import terminal  # noqa: PLC0415  # where nobody looks it is not needed

    return terminal

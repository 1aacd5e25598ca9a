"""Tables of text: CSV, TSV and their dialects.

If a dialect has quotes, a cell in quotes may contain delimiters, doubled quotes and line breaks. A
quote inside a cell that does not begin with one is a plain character. If the dialect has no quotes
(PartiPrompts), every quote is a plain character. Rows that have only delimiters are blank lines.
"""

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from imagemill.scheduler_jobs.manifest.formats.dialects import Dialect, name_of, separator
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.raw_rows import BadRow, HeaderCheck, RawRow
from imagemill.scheduler_jobs.manifest.sources.lines import LONE_RETURN, Line


def read_table(
    lines: Iterable[Line], *, dialect: Dialect, check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The data rows of a table in this dialect.

    Raises:
        Broken: no header or no row, a wrong header, or a quote that is never closed.
    """
    lines = _without_separator_line(lines)
    if dialect.quoted:
        records = _quoted_records(lines, dialect, max_line_bytes)
    else:
        records = _plain_records(lines, dialect.delimiter)
    return _rows(records, check_header, trimmed=dialect.trimmed)


def _without_separator_line(lines: Iterable[Line]) -> Iterator[Line]:
    """All lines except a spreadsheet's `sep=;` before the header."""
    begun = False
    for line in lines:
        if not begun and line.bad is None and separator(line.text) is not None:
            begun = True
            continue
        begun = begun or bool(line.text.strip())
        yield line


class _Record:
    """One record: its first line, its text, and its cells or the reason why it has none."""

    __slots__ = ("bad", "cells", "line", "verbatim")

    def __init__(
        self, line: int, verbatim: str, cells: list[str], bad: tuple[str, str] | None = None
    ) -> None:
        self.line = line
        self.verbatim = verbatim
        self.cells = cells
        self.bad = bad


def _rows(
    records: Iterator[_Record], check_header: HeaderCheck, *, trimmed: bool
) -> Iterator[RawRow | BadRow]:
    header = next(records, None)
    if header is None:
        raise Broken("no header and no rows", "a header line and at least one row")
    columns = _columns(header, check_header)
    number = 0
    for record in records:
        bad = record.bad
        if bad is None and len(record.cells) > 1 and not any(map(str.strip, record.cells)):
            # Spreadsheets write only delimiters for rows that have been emptied.
            continue
        number += 1
        if bad is None and len(record.cells) != len(columns):
            bad = (_cells(len(record.cells)), f"{len(columns)}, as the header has")
        if bad is not None:
            yield BadRow(number=number, line=record.line, found=bad[0], allowed=bad[1])
            continue
        cells = [cell.lstrip(" ") for cell in record.cells] if trimmed else record.cells
        yield RawRow(
            number=number,
            line=record.line,
            verbatim=record.verbatim,
            cells=dict(zip(columns, cells, strict=True)),
        )
    if not number:
        raise Broken("a header and no rows", "at least one row")


def _columns(header: _Record, check_header: HeaderCheck) -> list[str]:
    if header.bad is not None:
        raise Broken(*header.bad, line=header.line, column="header")
    # pandas gives the index column no name, and spreadsheets add empty columns at the end.
    columns = [cell.strip() or f"column_{n}" for n, cell in enumerate(header.cells, start=1)]
    for n, column in enumerate(columns):
        if column in columns[:n]:
            raise Broken(
                f"column {shown(column)} twice",
                "every column once",
                line=header.line,
                column="header",
            )
    check_header(tuple(columns), header.line)
    return columns


def _plain_records(lines: Iterable[Line], delimiter: str) -> Iterator[_Record]:
    for line in lines:
        if line.bad is not None:
            yield _Record(line.number, "", [], line.bad)
        elif "\r" in line.text:
            yield _Record(line.number, line.text, [], LONE_RETURN)
        elif line.text.strip():
            yield _Record(line.number, line.text, line.text.split(delimiter))


def _quoted_records(
    lines: Iterable[Line], dialect: Dialect, max_line_bytes: int
) -> Iterator[_Record]:
    stream = iter(lines)
    for line in stream:
        if line.bad is not None:
            # It may open a cell that goes on in the next line, which is no row of its own then.
            yield _quoted_record(line, stream, dialect.delimiter, max_line_bytes)
        elif not line.text:
            continue
        elif '"' not in line.text and "\r" not in line.text:
            yield _Record(line.number, line.text, line.text.split(dialect.delimiter))
        elif (cells := _simple_cells(line.text, dialect.delimiter)) is not None:
            yield _Record(line.number, line.text, cells)
        else:
            yield _quoted_record(line, stream, dialect.delimiter, max_line_bytes)


def _simple_cells(text: str, delimiter: str) -> list[str] | None:
    """The cells of a line in which every quote stands beside a delimiter or an end; else None.

    Most lines with quotes are like this. `_quoted_record` reads all of them, in five times as long.
    """
    parts = f"{delimiter}{text}{delimiter}".split('"')
    if len(parts) % 2 == 0 or "\r" in text:
        return None
    cells: list[str] = []
    # What is outside of quotes takes turns with what is inside.
    for outside, inside in zip_longest(parts[::2], parts[1::2]):
        if not (outside.startswith(delimiter) and outside.endswith(delimiter)):
            return None
        if outside != delimiter:
            cells += outside[1:-1].split(delimiter)
        if inside is not None:
            cells.append(inside)
    return cells


def _quoted_record(
    first: Line, stream: Iterator[Line], delimiter: str, max_line_bytes: int
) -> _Record:
    """A record with quotes. It reads further lines if its cells have line breaks."""
    text = first.text
    parts = [text]
    cells: list[str] = []
    bad = first.bad
    at = size = 0
    while True:
        quote = _after_blanks(text, at, delimiter)
        if not text.startswith('"', quote):
            end = text.find(delimiter, at)
            cell = text[at:] if end < 0 else text[at:end]
            if "\r" in cell:
                bad = bad or LONE_RETURN
            cells.append(cell)
            at = len(text) if end < 0 else end
        else:
            pieces: list[str] = []
            at = quote + 1
            while (found := _closing(text, at, pieces)) < 0:
                # The cell continues in the next line.
                following = next(stream, None)
                size += len(text) + 1
                if following is None or size > max_line_bytes:
                    raise Broken(
                        "a quote that is opened here and never closed",
                        'a closing "',
                        line=first.number,
                    )
                bad = bad or following.bad
                text, at = following.text, 0
                parts.append(text)
                pieces.append("\n")
            cells.append("".join(pieces))
            at = _after_blanks(text, found, delimiter)
            if at < len(text) and text[at] != delimiter:
                rest = shown(text[found : found + 20])
                bad = bad or (f"{rest} after a closing quote", name_of(delimiter))
                end = text.find(delimiter, at)
                at = len(text) if end < 0 else end
        if at >= len(text):
            return _Record(first.number, "\n".join(parts), cells, bad)
        at += 1


def _after_blanks(text: str, at: int, delimiter: str) -> int:
    """The index after any blanks at `at`. Blanks around a quoted cell have no meaning."""
    while text[at : at + 1] in {" ", "\t"} - {delimiter}:
        at += 1
    return at


def _closing(text: str, at: int, pieces: list[str]) -> int:
    """Read a quoted cell from `at`; return the index after its closing quote, or -1 without one."""
    while True:
        quote = text.find('"', at)
        if quote < 0:
            pieces.append(text[at:])
            return -1
        if not text.startswith('"', quote + 1):
            pieces.append(text[at:quote])
            return quote + 1
        pieces.append(text[at : quote + 1])
        at = quote + 2


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"

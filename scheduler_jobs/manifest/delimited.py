"""CSV and TSV.

CSV is RFC 4180: cells in double quotes may hold commas, doubled quotes and line breaks; a quote
inside a cell that does not begin with one is literal, as everywhere. TSV has no quoting at all: a
quote is a quote (PartiPrompts), a tab or line break can't be in a cell.
"""

from collections.abc import Iterable, Iterator

from imagemill.scheduler_jobs.manifest.lines import Line
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.raw import BadRow, HeaderCheck, RawRow

_NO_CARRIAGE_RETURN = "LF or CR LF at the end of every line"


def read_csv(
    lines: Iterable[Line], *, check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The data rows of a CSV file.

    Raises:
        Broken: no header or no row, a wrong header, or a quote that is never closed.
    """
    return _rows(_csv_records(lines, max_line_bytes), check_header)


def read_tsv(lines: Iterable[Line], *, check_header: HeaderCheck) -> Iterator[RawRow | BadRow]:
    """The data rows of a TSV file.

    Raises:
        Broken: no header or no row, or a wrong header.
    """
    return _rows(_tsv_records(lines), check_header)


class _Record:
    """One record: its first line, its text, and its cells or why there are none."""

    __slots__ = ("bad", "cells", "line", "verbatim")

    def __init__(
        self, line: int, verbatim: str, cells: list[str], bad: tuple[str, str] | None = None
    ) -> None:
        self.line = line
        self.verbatim = verbatim
        self.cells = cells
        self.bad = bad


def _rows(records: Iterator[_Record], check_header: HeaderCheck) -> Iterator[RawRow | BadRow]:
    header = next(records, None)
    if header is None:
        raise Broken("no header and no rows", "a header line and at least one row")
    columns = _columns(header, check_header)
    number = 0
    for number, record in enumerate(records, start=1):
        bad = record.bad
        if bad is None and len(record.cells) != len(columns):
            bad = (_cells(len(record.cells)), f"{len(columns)}, as the header has")
        if bad is not None:
            yield BadRow(number=number, line=record.line, found=bad[0], allowed=bad[1])
            continue
        yield RawRow(
            number=number,
            line=record.line,
            verbatim=record.verbatim,
            cells=dict(zip(columns, record.cells, strict=True)),
        )
    if not number:
        raise Broken("a header and no rows", "at least one row")


def _columns(header: _Record, check_header: HeaderCheck) -> list[str]:
    if header.bad is not None:
        raise Broken(*header.bad, line=header.line, column="header")
    # pandas leaves the index column without a name, spreadsheets add empty columns at the end.
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


def _tsv_records(lines: Iterable[Line]) -> Iterator[_Record]:
    for line in lines:
        if line.bad is not None:
            yield _Record(line.number, "", [], line.bad)
        elif "\r" in line.text:
            yield _Record(
                line.number, line.text, [], ("a lone carriage return", _NO_CARRIAGE_RETURN)
            )
        elif line.text:
            yield _Record(line.number, line.text, line.text.split("\t"))


def _csv_records(lines: Iterable[Line], max_line_bytes: int) -> Iterator[_Record]:
    stream = iter(lines)
    for line in stream:
        if line.bad is not None:
            yield _Record(line.number, "", [], line.bad)
        elif not line.text:
            continue
        elif '"' not in line.text and "\r" not in line.text:
            yield _Record(line.number, line.text, line.text.split(","))
        else:
            yield _quoted_record(line, stream, max_line_bytes)


def _quoted_record(first: Line, stream: Iterator[Line], max_line_bytes: int) -> _Record:
    """A record that has quotes, with as many more lines as its cells have line breaks."""
    text = first.text
    parts = [text]
    cells: list[str] = []
    bad: tuple[str, str] | None = None
    at = size = 0
    while True:
        if not text.startswith('"', at):
            comma = text.find(",", at)
            cell = text[at:] if comma < 0 else text[at:comma]
            if "\r" in cell:
                bad = bad or ("a lone carriage return", _NO_CARRIAGE_RETURN)
            cells.append(cell)
            at = len(text) if comma < 0 else comma
        else:
            pieces: list[str] = []
            at += 1
            while (found := _closing(text, at, pieces)) < 0:
                # The cell goes on in the next line.
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
            at = found
            if at < len(text) and text[at] != ",":
                bad = bad or (f"{shown(text[at : at + 20])} after a closing quote", "a comma")
                comma = text.find(",", at)
                at = len(text) if comma < 0 else comma
        if at >= len(text):
            return _Record(first.number, "\n".join(parts), cells, bad)
        at += 1


def _closing(text: str, at: int, pieces: list[str]) -> int:
    """Read a quoted cell from `at`: the place after its closing quote, -1 if it isn't here."""
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

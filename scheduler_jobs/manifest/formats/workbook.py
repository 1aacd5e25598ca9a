"""Excel workbooks: the first sheet, or the one that `book.xlsx#name` names, row by row.

A workbook is a zip archive of XML, so a few hundred kilobytes may stand for gigabytes. The archive
says how large its parts are, and no more of them is ever read; a ceiling on memory bounds the rest.
"""

import datetime
import itertools
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any
from xml.etree.ElementTree import ParseError

from imagemill.db.errors import first_line
from imagemill.scheduler_jobs.manifest.formats.magics import WORKBOOK
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON, BadRow, HeaderCheck, RawRow
from imagemill.scheduler_jobs.manifest.sources.memory import at_most_more

_WORKBOOK = "xl/workbook.xml"
_MOST_PARTS = 10_000
_MOST_STRINGS_BYTES = 1 << 27
_MOST_PART_BYTES = 1 << 22
"""The size of a part that is read whole and made into objects: styles, relations."""
_MOST_MEMORY_BYTES = 1 << 28
_ROUNDED = 1 << 53
_BLANK_ROWS = 100_000
_ROWS_AT_ONCE = 256
_SHOWN_SHEETS = 8
_FORMULA = "f"
"""The type of a cell with a formula whose value nobody has stored."""
_NO_VALUE = "a formula without its value"
_STORED = "a value, or the workbook as a spreadsheet saves it"
_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")


def read_workbook(
    stream: IO[bytes], *, sheet: str | None, check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The rows of one sheet below its header, of a file that can seek.

    Cells come as their types: whole numbers, numbers, texts, true and false; dates as ISO 8601.
    A formula is the value that was stored for it.

    Raises:
        Broken: not a workbook, no such sheet, a bomb, a wrong header, or no rows.
    """
    try:
        if stream.read(len(WORKBOOK)) != WORKBOOK:
            raise Broken("not an Excel workbook by its first bytes", "a workbook, .xlsx")
        _check_parts(stream)
        yield from _rows(_sheet_rows(stream, sheet), check_header, max_line_bytes)
    except MemoryError:
        found = f"a workbook that takes more than {_MOST_MEMORY_BYTES:,} bytes to read"
        raise Broken(found, "a smaller one, or CSV") from None
    except (
        *(zipfile.BadZipFile, ParseError, zlib.error, OSError, EOFError),
        *(NotImplementedError, RuntimeError),
        *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    ) as error:
        reason = first_line(error)
        raise Broken(f"the workbook is damaged ({shown(reason)})", "an intact file") from None


def _check_parts(stream: IO[bytes]) -> None:
    """Refuse an archive that is no workbook, or unpacks to more than a workbook needs."""
    with zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
    if not any(part.filename == _WORKBOOK for part in parts):
        raise Broken("a zip archive that is no Excel workbook", "the files in it")
    if len(parts) > _MOST_PARTS:
        raise Broken(f"a workbook of {len(parts):,} parts", f"at most {_MOST_PARTS:,}")
    for part in parts:
        name = part.filename.lower()
        if name.startswith(("xl/worksheets/sheet", "xl/media/")):
            continue  # read row by row, or never
        most = _MOST_STRINGS_BYTES if name.endswith("sharedstrings.xml") else _MOST_PART_BYTES
        if part.file_size > most and name.endswith((".xml", ".rels")):
            found = f"a workbook whose {shown(part.filename)} has {part.file_size:,} bytes"
            raise Broken(found, f"at most {most:,}, or CSV")


def _sheet_rows(stream: IO[bytes], wanted: str | None) -> Iterator[tuple[Any, ...]]:
    """Every row of the sheet, from its first; blank ones too."""
    # It takes long to import, and few manifests are workbooks.
    from imagemill.scheduler_jobs.manifest.formats.sheet_cells import open_sheets  # noqa: PLC0415

    with warnings.catch_warnings():
        # It warns of styles and extensions that no row depends on.
        warnings.simplefilter("ignore")
        with at_most_more(_MOST_MEMORY_BYTES):
            found = open_sheets(stream)
    sheets = {sheet.title: sheet for sheet in found}
    if wanted is not None and wanted not in sheets:
        names = ", ".join(shown(name) for name in list(sheets)[:_SHOWN_SHEETS])
        raise Broken(f"no sheet {shown(wanted)}", f"one of {names}")
    if not sheets:
        raise Broken("a workbook without sheets", "one with rows")
    sheet = sheets[wanted] if wanted is not None else _first_sheet(found)
    rows = sheet.every_row()
    while True:
        with warnings.catch_warnings(), at_most_more(_MOST_MEMORY_BYTES):
            warnings.simplefilter("ignore")
            some = list(itertools.islice(rows, _ROWS_AT_ONCE))
        if not some:
            return
        yield from some


def _first_sheet(sheets: Sequence[Any]) -> Any:
    """The first sheet, if a person who opens the workbook sees it."""
    first, *others = sheets
    shown_ones = [shown(each.title) for each in others if each.sheet_state == "visible"]
    if first.sheet_state != "visible" and shown_ones:
        names = ", ".join([shown(first.title), *shown_ones][:_SHOWN_SHEETS])
        found = f"a first sheet that is hidden, {shown(first.title)}"
        raise Broken(found, f"the sheet that is meant: FILE#NAME with one of {names}")
    return first


def _rows(
    rows: Iterator[tuple[Any, ...]], check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    header: list[str] | None = None
    number = blanks = 0
    for line, row in enumerate(rows, start=1):
        cells = list(row)
        while cells and _is_blank(cells[-1]):
            cells.pop()
        blanks = 0 if cells else blanks + 1
        if blanks > _BLANK_ROWS:
            raise Broken(f"more than {_BLANK_ROWS:,} blank rows in a row", "rows", line=line)
        if not cells:
            continue
        if header is None:
            header = _header(cells, line)
            check_header(tuple(header), line)
            continue
        number += 1
        yield _row(header, cells, number, line, max_line_bytes)
    if header is None:
        raise Broken("no header and no rows", "a header row and at least one row")
    if not number:
        raise Broken("a header and no rows", "at least one row")


def _is_blank(cell: Any) -> bool:
    return cell.value in (None, "") and cell.data_type != _FORMULA


def _header(cells: Sequence[Any], line: int) -> list[str]:
    for n, cell in enumerate(cells, start=1):
        if cell.data_type == _FORMULA:
            raise Broken(f"cell {n}: {_NO_VALUE}", _STORED, line=line, column="header")
    # A column without a name is called by its place, as in CSV.
    names = [
        str(_value(cell.value) if cell.value is not None else "").strip() or f"column_{n}"
        for n, cell in enumerate(cells, start=1)
    ]
    for n, name in enumerate(names):
        if name in names[:n]:
            raise Broken(
                f"column {shown(name)} twice", "every column once", line=line, column="header"
            )
    return names


def _row(
    header: Sequence[str], cells: Sequence[Any], number: int, line: int, max_line_bytes: int
) -> RawRow | BadRow:
    if len(cells) > len(header):
        found, allowed = f"{len(cells)} cells", f"{len(header)}, as the header has"
        return BadRow(number=number, line=line, found=found, allowed=allowed)
    values: dict[str, JSON] = dict.fromkeys(header)
    for name, cell in zip(header, cells, strict=False):
        if cell.data_type == "e":
            found = f"{shown(cell.value)}, an error of the workbook"
            return BadRow(number=number, line=line, column=name, found=found, allowed="a value")
        if cell.data_type == _FORMULA:
            return BadRow(number=number, line=line, column=name, found=_NO_VALUE, allowed=_STORED)
        value = cell.value
        if isinstance(value, int) and abs(value) >= _ROUNDED:
            # A workbook's numbers are floats, and so were these digits once.
            value = float(value)
        values[name] = _value(value)
    verbatim = json.dumps(values, ensure_ascii=False)
    if len(verbatim.encode(errors="replace")) > max_line_bytes:
        found = f"a row of more than {max_line_bytes:,} bytes as JSON"
        allowed = "a shorter row (IMAGEMILL_MAX_LINE_BYTES)"
        return BadRow(number=number, line=line, found=found, allowed=allowed)
    return RawRow(number=number, line=line, verbatim=verbatim, cells=values)


def _value(value: Any) -> JSON:
    """A cell's value as JSON."""
    match value:
        case str():
            return _unescaped(value)
        case None | bool() | int() | float():
            return value
        case datetime.datetime() if value.time() == datetime.time():
            return value.date().isoformat()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case _:
            return str(value)


def _unescaped(text: str) -> str:
    """A text with the characters that XML lacks, which a workbook writes as `_x000B_`.

    The escape of the underscore itself, `_x005F_`, comes before what only looks like an escape.
    Line breaks are LF, as in every other format.
    """
    if "_x" not in text:
        return text
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return plain.replace("\r\n", "\n").replace("\r", "\n")

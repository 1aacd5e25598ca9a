"""Rows of Arrow's record batches, whichever file they come from, as raw cells."""

import base64
import contextlib
import datetime
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from imagemill.db.errors import first_line
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON, BadRow, HeaderCheck, RawRow
from imagemill.scheduler_jobs.manifest.values import Base64

MOST_MEMORY_BYTES = 3 << 29
"""What unpacking a batch may take. Arrow's allocator maps a gigabyte at a time, used or not, and
honest writers' pages are of a megabyte."""
_BYTES_A_JSON_BYTE = 8
"""The most bytes that Arrow needs for one byte of JSON: the number 0 takes eight."""
_NARROW = re.compile(r"\b(float|halffloat)\b")
"""How Arrow writes types with floats of four or two bytes in them."""
_MOST_LONG_ROWS = 1000
"""How many rows may be over the limit before a file is refused. A dictionary can repeat a long row
at the cost of one byte each."""


@contextlib.contextmanager
def arrow_errors(what: str) -> Iterator[None]:
    """Within the block, Arrow's errors on a damaged or a too large file become `Broken`."""
    try:
        yield
    except (MemoryError, pa.ArrowMemoryError):
        found = f"{what} that takes more than {MOST_MEMORY_BYTES:,} bytes to unpack"
        raise Broken(found, "smaller pages, row groups and lists") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = first_line(error)
        raise Broken(f"the {what} file is damaged ({shown(reason)})", "an intact file") from None


def batch_rows(
    batches: Iterable[pa.RecordBatch], *, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The rows of batches; a row's JSON text obeys the limit that a line obeys.

    Raises:
        Broken: no rows, or too many that are too long.
    """
    number = long = 0
    for batch in batches:
        columns = [(name, batch.column(n)) for n, name in enumerate(batch.schema.names)]
        large = [name for name, values in columns if _may_be_long(values, max_line_bytes)]
        narrow = [name for name, values in columns if _NARROW.search(str(values.type))]
        for at in range(batch.num_rows):
            number += 1
            row = _row(columns, at, number, max_line_bytes, large=large, narrow=narrow)
            long += isinstance(row, BadRow) and row.column is None
            if long > _MOST_LONG_ROWS:
                raise Broken(f"more than {_MOST_LONG_ROWS:,} rows that are too long", "rows")
            yield row
    if not number:
        raise Broken("no rows", "at least one row")


def check_columns(names: list[str], check_header: HeaderCheck) -> None:
    """Raise `Broken` if a column is there twice, or whatever `check_header` raises."""
    for n, name in enumerate(names):
        if name in names[:n]:
            raise Broken(f"column {shown(name)} twice", "every column once", column="header")
    check_header(tuple(names), None)


def _may_be_long(values: Any, max_line_bytes: int) -> bool:
    """Whether a value may be over the limit; asked before it becomes a Python object."""
    return bool(values.nbytes > _BYTES_A_JSON_BYTE * max_line_bytes)


def _row(
    columns: list[tuple[str, Any]],
    at: int,
    number: int,
    max_line_bytes: int,
    *,
    large: Sequence[str],
    narrow: Sequence[str],
) -> RawRow | BadRow:
    cells: dict[str, JSON] = {}
    for name, values in columns:
        if name in large and _may_be_long(_only(values, at), max_line_bytes):
            return _too_long(number, max_line_bytes)
        try:
            value = values[at].as_py()
            cells[name] = as_json(_shortened(value, values.type) if name in narrow else value)
        except (ValueError, OverflowError, pa.ArrowException) as error:
            return BadRow(
                number=number,
                line=0,
                column=name,
                found=f"a value that can't be read ({str(error)[:80]})",
                allowed="text, numbers, dates, lists or objects",
            )
    verbatim = json.dumps(cells, ensure_ascii=False, allow_nan=True)
    # A character has four bytes at most; counting them costs, so only where it can matter.
    if (
        len(verbatim) * 4 > max_line_bytes
        and len(verbatim.encode(errors="replace")) > max_line_bytes
    ):
        return _too_long(number, max_line_bytes)
    return RawRow(number=number, line=0, verbatim=verbatim, cells=cells)


def _only(values: Any, at: int) -> Any:
    """One value of a column as an array, whose `nbytes` is that of the value alone."""
    one = values.slice(at, 1)
    return one.dictionary_decode() if pa.types.is_dictionary(one.type) else one


def _too_long(number: int, max_line_bytes: int) -> BadRow:
    return BadRow(
        number=number,
        line=0,
        found=f"a row of more than {max_line_bytes:,} bytes as JSON",
        allowed="a shorter row (IMAGEMILL_MAX_LINE_BYTES)",
    )


def _shortened(value: Any, kind: Any) -> Any:
    """A value whose narrow floats are what their shortest texts say: 7.3, not 7.300000190734863."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return _shortest(value, "f" if pa.types.is_float32(kind) else "e")
    if pa.types.is_dictionary(kind):
        return _shortened(value, kind.value_type)
    if isinstance(value, dict) and pa.types.is_struct(kind):
        types = {field.name: field.type for field in kind}
        return {name: _shortened(item, types[name]) for name, item in value.items()}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_shortened(item, kind.value_type) for item in value]
    return value


def _shortest(value: float | None, form: str) -> float | None:
    for digits in range(1, 10) if value is not None else ():
        number = float(f"{value:.{digits}g}")
        with contextlib.suppress(OverflowError):
            if struct.unpack(form, struct.pack(form, number))[0] == value:
                return number
    return value


def as_json(value: Any) -> JSON:
    """A value as JSON: dates in ISO 8601, decimals as text, bytes as text or base64."""
    match value:
        case None | bool() | int() | float() | str():
            found: JSON = value
        case dict():
            found = {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple():
            found = [as_json(item) for item in value]
        case datetime.date() | datetime.time():  # a datetime is a date
            found = value.isoformat()
        case datetime.timedelta():
            found = value.total_seconds()
        case bytes():
            try:
                found = value.decode()
            except UnicodeDecodeError:
                found = Base64(base64.b64encode(value).decode("ascii"))
        case _:  # Decimal, UUID
            found = str(value)
    return found

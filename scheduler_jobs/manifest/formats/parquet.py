"""Parquet, read by batches."""

import base64
import contextlib
import datetime
import json
import math
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.db.errors import first_line
from imagemill.scheduler_jobs.manifest.memory import at_most_more
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.raw import JSON, BadRow, HeaderCheck, RawRow

MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
_BATCH_ROWS = 512
_BATCH_BYTES = 1 << 26
_FOOTER_BYTES = 8
_MOST_METADATA_BYTES = 1 << 26
_MOST_UNPACKED_BYTES = 1 << 34
_CHUNK_BYTES = 1 << 20
_MOST_MEMORY_BYTES = 3 << 29
"""The memory that unpacking a batch may take. Arrow's allocator maps a gigabyte at a time, even if
it is not used. Pages of ordinary writers have a megabyte."""
_BYTES_A_JSON_BYTE = 8
"""The most bytes in Arrow for one byte of JSON: a zero takes eight bytes."""
_NARROW = re.compile(r"\b(float|halffloat)\b")
"""Arrow's names of types that contain floats of four or two bytes."""
_MOST_LONG_ROWS = 1000
"""The number of too long rows at which a file is given up. With a dictionary, each of them may take
only a byte in the file."""


def read_parquet(
    stream: IO[bytes], *, check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The rows of a Parquet file. A row's JSON text has the same limit as a line.

    Raises:
        Broken: truncated, damaged or encrypted, a column twice, no rows, or a bomb.
    """
    _check_footer(stream)
    number = long = 0
    try:
        file = _opened(stream)
        _check_columns(file.schema_arrow.names, check_header)
        for batch in _batches(file):
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
    except (MemoryError, pa.ArrowMemoryError):
        found = f"Parquet that takes more than {_MOST_MEMORY_BYTES:,} bytes to unpack"
        raise Broken(found, "smaller pages, row groups and lists") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = first_line(error)
        raise Broken(f"the Parquet file is damaged ({shown(reason)})", "an intact file") from None
    if not number:
        raise Broken("no rows", "at least one row")


def _opened(stream: IO[bytes]) -> pq.ParquetFile:
    """The file, opened so that texts with a dictionary keep it."""
    limits = {
        "thrift_string_size_limit": _MOST_METADATA_BYTES,
        "thrift_container_size_limit": _MOST_METADATA_BYTES // 64,
    }
    pa.allocate_buffer(1)  # maps the allocator's first gigabyte before the limit is set
    with at_most_more(_MOST_MEMORY_BYTES):
        file = pq.ParquetFile(stream, **limits)
        texts = [name for name in file.schema_arrow.names if _is_dictionary(file, name)]
        stream.seek(0)
        # Without this, a text that a file has once and uses a million times would be in memory a
        # million times.
        return pq.ParquetFile(stream, read_dictionary=texts, **limits)


def _is_dictionary(file: pq.ParquetFile, name: str) -> bool:
    """Whether a column of texts has only encodings for which Arrow can keep the dictionary."""
    field = file.schema_arrow.field(name)
    if not pa.types.is_string(field.type):
        return False
    kept = {"PLAIN", "PLAIN_DICTIONARY", "RLE", "RLE_DICTIONARY", "BIT_PACKED"}
    groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
    columns = (group.column(n) for group in groups for n in range(group.num_columns))
    return all(kept.issuperset(c.encodings) for c in columns if c.path_in_schema == name)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    batches = file.iter_batches(batch_size=_batch_rows(file.metadata), use_threads=False)
    while True:
        with at_most_more(_MOST_MEMORY_BYTES):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _may_be_long(values: Any, max_line_bytes: int) -> bool:
    """Whether values of this column may be over the limit, found before they are Python objects."""
    return bool(values.nbytes > _BYTES_A_JSON_BYTE * max_line_bytes)


def spooled(stream: IO[bytes]) -> IO[bytes]:
    """An unpacked copy of a stream that can't seek, because Parquet is read from its end.

    Raises:
        Broken: the unpacked file is too large.
    """
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile(prefix="imagemill-parquet-"))
        while chunk := stream.read(_CHUNK_BYTES):
            copy.write(chunk)
            if copy.tell() > _MOST_UNPACKED_BYTES:
                raise Broken(
                    f"Parquet that unpacks to more than {_MOST_UNPACKED_BYTES:,} bytes",
                    "the Parquet file without compression around it",
                )
        copy.seek(0)
        stack.pop_all()  # the caller closes it
    return copy


def _check_footer(stream: IO[bytes]) -> None:
    size = stream.seek(0, 2)
    stream.seek(0)
    if stream.read(len(MAGIC)) != MAGIC:
        raise Broken("not a Parquet file: it does not begin with PAR1", "a Parquet file")
    stream.seek(max(size - _FOOTER_BYTES, 0))
    footer = stream.read(_FOOTER_BYTES)
    if footer.endswith(_ENCRYPTED_MAGIC):
        raise Broken("an encrypted Parquet file", "one that is not encrypted")
    if size < _FOOTER_BYTES + len(MAGIC) or not footer.endswith(MAGIC):
        raise Broken("the Parquet file is truncated: it does not end with PAR1", "a complete file")
    if int.from_bytes(footer[:4], "little") + _FOOTER_BYTES + len(MAGIC) > size:
        raise Broken("the Parquet file is damaged (its footer is longer than it)", "an intact file")
    stream.seek(0)


def _check_columns(names: list[str], check_header: HeaderCheck) -> None:
    for n, name in enumerate(names):
        if name in names[:n]:
            raise Broken(f"column {shown(name)} twice", "every column once", column="header")
    check_header(tuple(names), None)


def _batch_rows(metadata: Any) -> int:
    """The number of rows that fit into a batch's memory, estimated from the largest rows."""
    row_bytes = 1
    for n in range(metadata.num_row_groups):
        group = metadata.row_group(n)
        row_bytes = max(row_bytes, group.total_byte_size // max(group.num_rows, 1))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))


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
            cells[name] = _json(_shortened(value, values.type) if name in narrow else value)
        except (ValueError, OverflowError, pa.ArrowException) as error:
            return BadRow(
                number=number,
                line=0,
                column=name,
                found=f"a value that can't be read ({str(error)[:80]})",
                allowed="text, numbers, dates, lists or objects",
            )
    verbatim = json.dumps(cells, ensure_ascii=False, allow_nan=True)
    # A character has at most four bytes. So the bytes are counted only if the limit is in reach.
    if (
        len(verbatim) * 4 > max_line_bytes
        and len(verbatim.encode(errors="replace")) > max_line_bytes
    ):
        return _too_long(number, max_line_bytes)
    return RawRow(number=number, line=0, verbatim=verbatim, cells=cells)


def _only(values: Any, at: int) -> Any:
    """One value of a column as an array that has only the memory of this value."""
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
    """A value with the shortest form of its narrow floats: 7.3, not 7.300000190734863."""
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


def _json(value: Any) -> JSON:
    """A Parquet value as JSON: dates in ISO 8601, decimals as text, bytes as text or base64."""
    match value:
        case None | bool() | int() | float() | str():
            found: JSON = value
        case dict():
            found = {str(key): _json(item) for key, item in value.items()}
        case list() | tuple():
            found = [_json(item) for item in value]
        case datetime.date() | datetime.time():  # a datetime is a date
            found = value.isoformat()
        case datetime.timedelta():
            found = value.total_seconds()
        case bytes():
            try:
                found = value.decode()
            except UnicodeDecodeError:
                found = base64.b64encode(value).decode("ascii")
        case _:  # Decimal, UUID
            found = str(value)
    return found


def without_nan(value: JSON) -> JSON:
    """An extra with NaN and infinity replaced by null: JSON does not have them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return value

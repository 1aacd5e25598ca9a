"""Rows as Arrow's record batches: a column's type is found from the first page of rows.

A query has no types that both databases would tell. So the first rows decide, and a later value
that does not fit is an error that names the column and the row, never a changed value.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import chain
from typing import Any

import pyarrow as pa

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.columns import OWN
from imagemill.scheduler_jobs.reading.cells import check_names, json_value, text_value

Rows = Sequence[Sequence[Any]]

_MOST = 2**63
_SEED = "seed"


def batch_reader(columns: Sequence[str], pages: Iterable[Rows]) -> pa.RecordBatchReader:
    """The rows as a stream of record batches, one for each page.

    Raises:
        UsageError: two columns have one name; while reading, a value that does not fit.
    """
    check_names(columns)
    stream = iter(pages)
    first = next(stream, [])
    schema = pa.schema(
        [
            (name, column_type(name, [row[place] for row in first]))
            for place, name in enumerate(columns)
        ]
    )
    return pa.RecordBatchReader.from_batches(schema, _batches(schema, chain([first], stream)))


def column_type(name: str, values: Iterable[Any]) -> pa.DataType:
    """The type that holds all of these values; that of our own column if all are missing."""
    kinds = {_kind(value) for value in values if value is not None}
    if not kinds:
        return OWN.get(name, pa.string())
    # A seed of 64 bits is a number on Postgres, and on SQLite may be its digits.
    if name == _SEED and kinds <= {"int", "large", "text"}:
        return pa.uint64()
    if kinds == {"int"}:
        return pa.int64()
    if kinds <= {"int", "large"}:
        return pa.uint64()
    if kinds <= {"int", "large", "float"}:
        return pa.float64()
    return _SINGLE.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string()


_SINGLE = {
    "bool": pa.bool_(),
    "moment": pa.timestamp("us", tz="UTC"),
    "local": pa.timestamp("us"),
    "date": pa.date32(),
    "bytes": pa.binary(),
}


def _kind(value: Any) -> str:  # noqa: PLR0911 - one line for each kind
    match value:
        case bool():
            return "bool"
        case int():
            return _size(value)
        case Decimal() if value.is_finite() and value == value.to_integral_value():
            return _size(int(value))
        case float() | Decimal():
            return "float"
        case datetime():
            return "local" if value.tzinfo is None else "moment"
        case date():
            return "date"
        case bytes() | memoryview():
            return "bytes"
        case _:
            return "text"


def _size(value: int) -> str:
    if -_MOST <= value < _MOST:
        return "int"
    return "large" if 0 <= value < 2 * _MOST else "float"


def _batches(schema: pa.Schema, pages: Iterable[Rows]) -> Iterator[pa.RecordBatch]:
    before = 0
    for page in pages:
        arrays = [
            _array(field, [row[place] for row in page], before)
            for place, field in enumerate(schema)
        ]
        yield pa.record_batch(arrays, schema=schema)
        before += len(page)


def _array(field: pa.Field, values: list[Any], before: int) -> pa.Array:
    try:
        return pa.array([_cell(value, field.type) for value in values], field.type)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        row = next(n for n, value in enumerate(values, 1) if not _fits(value, field.type))
        raise UsageError(
            f"column {field.name}, row {before + row}: {text_value(values[row - 1])[:60]!r} does "
            f"not fit {field.type}, which the first rows are; CAST it in the query"
        ) from None


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([_cell(value, kind)], kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return False
    return True


def _cell(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_string(kind):
        return text_value(value)
    if pa.types.is_integer(kind):
        return _whole(value)
    if pa.types.is_float64(kind):
        return float(value) if isinstance(value, int | float | Decimal) else value
    return bytes(value) if isinstance(value, memoryview) else value


def _whole(value: Any) -> int:
    """An integer: also one that is written as a decimal number or, for a seed, as its digits."""
    found = int(value) if isinstance(value, str) else json_value(value)
    if isinstance(found, bool) or not isinstance(found, int):
        raise TypeError(value)
    return found

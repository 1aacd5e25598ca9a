"""Rows that a program hands over, as a manifest: the same readers and rules as for files.

Mappings are written as JSON lines, a table as an Arrow file, into a temporary file. So a row from
Python means what the same row means in a file, and the same rows are the same manifest.
"""

import datetime
import decimal
import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from imagemill.db.errors import ManifestError, first_line
from imagemill.scheduler_jobs.manifest.formats.arrow.rows import as_json
from imagemill.scheduler_jobs.manifest.problems import BadValue, Problem
from imagemill.scheduler_jobs.manifest.sources.source import Source, spooling

ROWS = "rows"
"""What rows of a program are called, as the manifest that they are."""

_ALLOWED = "text, numbers, dates, lists or mappings"
_MISSING = frozenset({"NAType", "NaTType"})
"""Types of pandas' marks for a missing value, which is not imported for that."""
_AS_TEXT = (decimal.Decimal, uuid.UUID, os.PathLike)
_AS_JSON = (bool, int, float, str, bytes, datetime.date, datetime.time, datetime.timedelta)
_BATCH_ROWS = 10_000


def rows_source(rows: Iterable[Mapping[str, Any] | str]) -> Source:
    """Mappings from columns to values, or prompts alone, as a manifest in JSON lines.

    NaN and pandas' marks are missing values; numbers of numpy are numbers.

    Raises:
        ManifestError: a row is no mapping, or has a value that no file could have.
    """
    with spooling(ROWS) as (stream, source):
        for number, row in enumerate(rows, 1):
            line = json.dumps(_cells(row, number), allow_nan=True)
            stream.write(line.encode("ascii") + b"\n")
    return source


def table_source(table: Any) -> Source:
    """A table (pandas, polars, pyarrow, or whatever gives an Arrow stream) as an Arrow manifest.

    Raises:
        ManifestError: a column has values of several types.
    """
    with spooling(ROWS) as (stream, source):
        try:
            reader = _batches(table)
            # Metadata names versions of libraries, and the same rows must stay the same manifest.
            schema = reader.schema.remove_metadata()
            with pa.ipc.new_file(stream, schema) as writer:
                for batch in reader:
                    writer.write_batch(pa.record_batch(batch.columns, schema=schema))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            said = " ".join(str(part) for part in error.args) or first_line(error)
            raise ManifestError(
                f"{ROWS}: this table can't be read: {' '.join(said.split())}"
            ) from None
    return source


def is_table(value: Any) -> bool:
    """Whether a value is a table rather than rows."""
    return hasattr(value, "__arrow_c_stream__") or _is_pandas(value)


def _is_pandas(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"


def _batches(table: Any) -> pa.RecordBatchReader:
    if not _is_pandas(table):
        return pa.RecordBatchReader.from_stream(table)
    # An index without a name only numbers the rows, or what a filter left of them.
    named = any(name is not None for name in table.index.names)
    whole = pa.Table.from_pandas(table, preserve_index=named)
    return whole.combine_chunks().to_reader(max_chunksize=_BATCH_ROWS)


def _cells(row: Any, number: int) -> dict[str, Any]:
    if isinstance(row, str):
        return {"prompt": row}
    if not isinstance(row, Mapping):
        raise _bad(number, None, f"a row of type {type(row).__name__}", "a mapping or a prompt")
    cells = {}
    for column, value in row.items():
        if not isinstance(column, str):
            raise _bad(number, None, f"a column called {column!r}", "names that are texts")
        try:
            cells[column] = _plain(value)
        except BadValue as bad:
            raise _bad(number, column, bad.found, bad.allowed) from None
    return cells


def _plain(value: Any) -> Any:
    """The value as JSON has it. Raises `BadValue` for what no file could have."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        # A float of 32 bits is what its shortest text says: 7.3, not 7.300000190734863.
        narrow = str(value.dtype) in {"float32", "float16"} and getattr(value, "ndim", 0) == 0
        value = float(str(value)) if narrow else value.tolist()
    if value is None or type(value).__name__ in _MISSING:
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, _AS_JSON):
        return as_json(value)
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise BadValue(f"a value of type {type(value).__name__}", _ALLOWED)


def _bad(number: int, column: str | None, found: str, allowed: str) -> ManifestError:
    problem = Problem(file=ROWS, row=number, column=column, found=found, allowed=allowed)
    return ManifestError(f"{ROWS}: 1 bad row", problems=(problem,))

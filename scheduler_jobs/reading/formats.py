"""Writes a stream of rows as CSV, JSON or Parquet; a page of rows is in memory at a time."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any

import pyarrow.parquet as pq

from imagemill.scheduler_jobs.reading.arrow import Rows, batch_reader
from imagemill.scheduler_jobs.reading.cells import check_names, json_value, text_value

Writer = Callable[[IO[bytes], Sequence[str], Iterable[Rows]], int]
"""Writes rows with these columns into a stream of bytes; returns how many there were."""


def write_csv(stream: IO[bytes], columns: Sequence[str], pages: Iterable[Rows]) -> int:
    """UTF-8, a header, `\\n` at the end of a line; NULL is an empty cell."""
    count = 0
    stream.write(_csv_lines([columns]))
    for page in pages:
        stream.write(_csv_lines([[_csv_cell(value) for value in row] for row in page]))
        count += len(page)
    return count


def write_json(stream: IO[bytes], columns: Sequence[str], pages: Iterable[Rows]) -> int:
    """An array with an object for each row, on a line of its own."""
    count = 0
    check_names(columns)
    stream.write(b"[")
    for page in pages:
        for row in page:
            stream.write(b",\n" if count else b"\n")
            stream.write(json_row(columns, row).encode("utf-8", "backslashreplace"))
            count += 1
    stream.write(b"\n]\n")
    return count


def write_parquet(stream: IO[bytes], columns: Sequence[str], pages: Iterable[Rows]) -> int:
    """Parquet with the types of `arrow`; a row group for each page."""
    reader = batch_reader(columns, pages)
    count = 0
    with pq.ParquetWriter(stream, reader.schema) as file:
        for batch in reader:
            if batch.num_rows:
                file.write_batch(batch)
            count += batch.num_rows
    return count


def json_row(columns: Sequence[str], row: Sequence[Any]) -> str:
    """A row as one JSON object."""
    values = dict(zip(columns, map(json_value, row), strict=True))
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {"csv": write_csv, "json": write_json, "parquet": write_parquet}
)


def _csv_cell(value: Any) -> str:
    text = text_value(value)
    return str(value).lower() if isinstance(value, bool) else text


def _csv_lines(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")

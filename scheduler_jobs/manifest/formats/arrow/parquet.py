"""Parquet, read by batches."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.db.process.whole_file import naming
from imagemill.scheduler_jobs.manifest.formats.arrow.rows import (
    MOST_MEMORY_BYTES,
    arrow_errors,
    batch_rows,
    check_columns,
)
from imagemill.scheduler_jobs.manifest.formats.magics import PARQUET
from imagemill.scheduler_jobs.manifest.problems import Broken
from imagemill.scheduler_jobs.manifest.raw_rows import BadRow, HeaderCheck, RawRow
from imagemill.scheduler_jobs.manifest.sources.memory import at_most_more

_ENCRYPTED_MAGIC = b"PARE"
_BATCH_ROWS = 512
_BATCH_BYTES = 1 << 26
_FOOTER_BYTES = 8
_MOST_METADATA_BYTES = 1 << 26
_MOST_UNPACKED_BYTES = 1 << 34
_CHUNK_BYTES = 1 << 20


def read_parquet(
    stream: IO[bytes], *, check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The rows of a Parquet file. A row's JSON text has the same limit as a line.

    Raises:
        Broken: truncated, damaged or encrypted, a column twice, no rows, or a bomb.
    """
    _check_footer(stream)
    with arrow_errors("Parquet"):
        file = _opened(stream)
        check_columns(file.schema_arrow.names, check_header)
        yield from batch_rows(_batches(file), max_line_bytes=max_line_bytes)


def _opened(stream: IO[bytes]) -> pq.ParquetFile:
    """The file, opened so that texts with a dictionary keep it."""
    limits = {
        "thrift_string_size_limit": _MOST_METADATA_BYTES,
        "thrift_container_size_limit": _MOST_METADATA_BYTES // 64,
    }
    pa.allocate_buffer(1)  # maps the allocator's first gigabyte before the limit is set
    with at_most_more(MOST_MEMORY_BYTES):
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
        with at_most_more(MOST_MEMORY_BYTES):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def spooled(stream: IO[bytes]) -> IO[bytes]:
    """An unpacked copy of a stream that can't seek, for files that are read from their end.

    Raises:
        Broken: the unpacked file is too large.
    """
    with naming(Path(tempfile.gettempdir())), contextlib.ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile(prefix="imagemill-manifest-"))
        while chunk := stream.read(_CHUNK_BYTES):
            copy.write(chunk)
            if copy.tell() > _MOST_UNPACKED_BYTES:
                raise Broken(
                    f"a file that unpacks to more than {_MOST_UNPACKED_BYTES:,} bytes",
                    "the file without compression around it",
                )
        copy.seek(0)
        stack.pop_all()  # the caller closes it
    return copy


def _check_footer(stream: IO[bytes]) -> None:
    size = stream.seek(0, 2)
    stream.seek(0)
    if stream.read(len(PARQUET)) != PARQUET:
        raise Broken("not a Parquet file: it does not begin with PAR1", "a Parquet file")
    stream.seek(max(size - _FOOTER_BYTES, 0))
    footer = stream.read(_FOOTER_BYTES)
    if footer.endswith(_ENCRYPTED_MAGIC):
        raise Broken("an encrypted Parquet file", "one that is not encrypted")
    if size < _FOOTER_BYTES + len(PARQUET) or not footer.endswith(PARQUET):
        raise Broken("the Parquet file is truncated: it does not end with PAR1", "a complete file")
    if int.from_bytes(footer[:4], "little") + _FOOTER_BYTES + len(PARQUET) > size:
        raise Broken("the Parquet file is damaged (its footer is longer than it)", "an intact file")
    stream.seek(0)


def _batch_rows(metadata: Any) -> int:
    """The number of rows that fit into a batch's memory, estimated from the largest rows."""
    row_bytes = 1
    for n in range(metadata.num_row_groups):
        group = metadata.row_group(n)
        row_bytes = max(row_bytes, group.total_byte_size // max(group.num_rows, 1))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))

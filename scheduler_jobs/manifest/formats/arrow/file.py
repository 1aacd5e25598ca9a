"""Arrow files: the stream that Hugging Face's `save_to_disk` writes, and the file of Feather."""

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from imagemill.scheduler_jobs.manifest.formats.arrow.rows import (
    MOST_MEMORY_BYTES,
    arrow_errors,
    batch_rows,
    check_columns,
)
from imagemill.scheduler_jobs.manifest.formats.magics import ARROW_FILE, ARROW_STREAM
from imagemill.scheduler_jobs.manifest.problems import Broken
from imagemill.scheduler_jobs.manifest.raw_rows import BadRow, HeaderCheck, RawRow
from imagemill.scheduler_jobs.manifest.sources.memory import at_most_more

_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


def read_arrow(
    stream: IO[bytes], *, check_header: HeaderCheck, max_line_bytes: int
) -> Iterator[RawRow | BadRow]:
    """The rows of an Arrow file that can seek, batch by batch.

    Raises:
        Broken: truncated or damaged, a column twice, no rows, or a bomb.
    """
    head = stream.read(len(ARROW_FILE))
    is_file = head == ARROW_FILE
    if not is_file and not head.startswith(ARROW_STREAM):
        raise Broken("not an Arrow file by its first bytes", "an Arrow file")
    end = ARROW_FILE if is_file else _STREAM_END
    # A stream that was cut between two batches would else end like a whole one.
    stream.seek(max(stream.seek(0, 2) - len(end), 0))
    if stream.read() != end:
        raise Broken("the Arrow file is truncated: it has no end mark", "a complete file")
    stream.seek(0)
    with arrow_errors("Arrow"):
        pa.allocate_buffer(1)  # the allocator's first gigabyte is mapped by now
        with at_most_more(MOST_MEMORY_BYTES):
            reader = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
        check_columns(reader.schema.names, check_header)
        yield from batch_rows(_batches(reader, is_file=is_file), max_line_bytes=max_line_bytes)


def _batches(reader: Any, *, is_file: bool) -> Iterator[pa.RecordBatch]:
    at = 0
    while True:
        with at_most_more(MOST_MEMORY_BYTES):
            try:
                if is_file and at >= reader.num_record_batches:
                    return
                batch = reader.get_batch(at) if is_file else reader.read_next_batch()
            except StopIteration:
                return
            # What a damaged offset points at would be read from anywhere in memory.
            batch.validate(full=True)
        at += 1
        yield batch

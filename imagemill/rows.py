"""The answer of a query in Python: as dictionaries, and as Arrow for data frames."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from imagemill.db.database import Database
from imagemill.db.read_only import answering
from imagemill.scheduler_jobs.reading.arrow import batch_reader
from imagemill.scheduler_jobs.reading.cells import check_names


class Rows:
    """The rows of a SELECT, which runs each time that they are read. The database only reads.

    Everything that takes an Arrow stream takes them: polars, DuckDB, pyarrow.
    """

    def __init__(self, database: Database, query: str, *, seconds: float) -> None:
        self._database = database
        self._query = query
        self._seconds = seconds

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with answering(self._database, self._query, seconds=self._seconds) as answer:
            check_names(answer.columns)
            for row in answer.rows:
                yield dict(zip(answer.columns, row, strict=True))

    def to_arrow(self) -> pa.Table:
        """All rows as one Arrow table; a column's type is found from the first 2,000 rows."""
        return self._reader().read_all()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows as an Arrow stream: the interface of data frames to each other."""
        return self._reader().__arrow_c_stream__(requested_schema)

    def _reader(self) -> pa.RecordBatchReader:
        stream = self._batches()
        return pa.RecordBatchReader.from_batches(next(stream), stream)

    def _batches(self) -> Iterator[Any]:
        """The schema, then the batches."""
        with answering(self._database, self._query, seconds=self._seconds) as answer:
            reader = batch_reader(answer.columns, answer.pages)
            yield reader.schema
            yield from reader

"""Loads a job's rows and images, chunk by chunk. Each chunk is one transaction."""

import gc
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from operator import is_
from threading import Thread
from typing import Any, NoReturn

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.queries.copy_text import Written
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.queries.jobs.new_images import NewImages
from imagemill.scheduler_jobs.submit.planning.idle_values import IdleCounts
from imagemill.scheduler_jobs.submit.planning.planned_cells import PlannedModel
from imagemill.scheduler_jobs.submit.planning.planned_rows import (
    Findings,
    PlannedRow,
    RefusedRow,
    RowKeys,
)
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import ForeignCounts
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

Chunk = list[PlannedRow | RefusedRow]

_COLLECTED_CHUNKS = 8
"""After so many chunks Python looks for cycles. Rows have none, so by itself it hardly ever does;
but statements have, and hold the keys of their chunk: half a megabyte."""

_WRITTEN_CHARACTERS = 4 * 1024 * 1024
"""Chunks of longer rows are written when they are sent, and not before as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    """Rows with what can be made of them before the database has seen them.

    `places` say for each image which of the `rows` it belongs to. With `repeats`, two of the rows
    have the same key base.
    """

    rows: Chunk
    places: Sequence[int] = ()
    images: NewImages = field(default_factory=NewImages)
    bases: Collection[str] = ()
    repeats: bool = False
    models: Sequence[PlannedModel] = ()
    text: Written | None = None
    """The rows for PostgreSQL."""

    @classmethod
    def of(cls, rows: Chunk, job_seed: int) -> "_Chunk":
        """The rows with their images, and all their keys."""
        planned = [(place, row) for place, row in enumerate(rows) if isinstance(row, PlannedRow)]
        requests = [(place, row.requests(job_seed)) for place, row in planned]
        bases = [row.key_base for _, row in planned if row.key_base is not None]
        models = {cell.model.weights_digest: cell.model for _, row in planned for cell in row.cells}
        return cls(
            rows=rows,
            places=[place for place, asked in requests for _ in asked],
            images=NewImages.of(each for _, asked in requests for each in enumerate(asked)),
            bases=set(bases),
            repeats=len(set(bases)) < len(bases),
            models=[model for _, model in sorted(models.items())],
        )

    def written(self, dialect: Any) -> "_Chunk":
        """The chunk with its text for COPY, except where that would take much memory."""
        if not self.images or sum(len(row.verbatim) for row in self.rows) > _WRITTEN_CHARACTERS:
            return self
        text = job_rows.write_rows(self.rows, dialect)
        return replace(self, text=text, images=self.images.written(dialect))


class JobLoader:
    """Loads one job chunk by chunk, and registers models when they first appear.

    A chunk that is in the database already, from a producer that was killed, is only checked.
    """

    def __init__(
        self, job_id: int, request: SubmissionRequest, database: Database, file: str
    ) -> None:
        self.rows = 0
        self.findings = Findings()
        self.foreign = ForeignCounts()
        self.idle = IdleCounts()
        self._job_id = job_id
        self._request = request
        self._database = database
        self._file = file

    def add_all(self, chunks: Iterator[Chunk]) -> Iterator[int]:
        """Insert chunks one after the other; yields after each how many rows there are so far.

        While PostgreSQL works on a chunk, this process reads and plans the next one. An error ends
        it once the chunk under way is loaded or refused; Ctrl-C does not wait for that.
        """
        if self._database.is_sqlite:
            # The driver releases the interpreter for every row, and would wait for it each time.
            for rows in _collecting(chunks):
                self.add(self._made(rows))
                yield self.rows
            return
        loaded: Future[None] | None = None
        try:
            for rows in _collecting(chunks):
                chunk = self._made(rows).written(self._database.engine.dialect)
                if loaded is not None:
                    loaded.result()
                    yield self.rows
                loaded = self._start_adding(chunk)
        except Exception:
            if loaded is not None:
                wait([loaded])
            raise
        if loaded is not None:
            loaded.result()
            yield self.rows

    def add(self, chunk: _Chunk) -> None:
        """Insert a chunk's rows that are not in the database yet."""
        if self.is_refused:
            self._note(chunk.rows)
        else:
            self._note(self._database.run(lambda session: self._insert(session, chunk)))

    def _made(self, rows: Chunk) -> _Chunk:
        """The chunk with its images, whose keys are made while the database has other work."""
        return _Chunk(rows=rows) if self.is_refused else _Chunk.of(rows, self._request.seed)

    def _start_adding(self, chunk: _Chunk) -> Future[None]:
        """`add` in a thread of its own. A pool's thread would keep the process from its end."""
        loaded: Future[None] = Future()

        def work() -> None:
            try:
                self.add(chunk)
                loaded.set_result(None)
            except BaseException as error:
                loaded.set_exception(error)

        Thread(target=work, name="loader", daemon=True).start()
        return loaded

    @property
    def is_refused(self) -> bool:
        """Whether the job will be rejected. Then the rest is only read for its problems."""
        return bool(self.findings.problems) and (
            self.findings.fatal or not self._request.skip_bad_rows
        )

    @property
    def is_empty(self) -> bool:
        """Whether every row was bad, so that the job has nothing to render."""
        return 0 < self.rows == self.findings.bad_rows

    def reject(self) -> NoReturn:
        """Delete what was loaded, and raise the `ManifestError` that says why."""
        error = self.findings.error(self._file)
        self._database.run(
            lambda session: lifecycle.reject(session, self._job_id, message=error.message)
        )
        raise error

    def _note(self, rows: Chunk) -> None:
        self.rows += len(rows)
        for row in rows:
            if isinstance(row, RefusedRow):
                self.findings.add(row)
                continue
            if row.foreign:
                self.foreign.add(row.foreign, row.excerpt)
            self.idle.add(row.unguided, row.excerpt)

    def _insert(self, session: Session, chunk: _Chunk) -> Chunk:
        job = job_rows.lock_loading(session, self._job_id)
        loaded = job.rows_loaded
        known = [row for row in chunk.rows if row.number <= loaded]
        if known:
            chunk = _Chunk.of(chunk.rows[len(known) :], self._request.seed)
        checked = self._checked(session, chunk)
        bad = [row for row in checked if isinstance(row, RefusedRow)]
        if bad and not self._request.skip_bad_rows:
            return [*known, *checked]
        if not all(map(is_, checked, chunk.rows)):
            # Some are equal to earlier ones, which gives them other keys.
            chunk = _Chunk.of(checked, self._request.seed)
        ids = job_rows.insert_rows(session, job, checked, written=chunk.text)
        for model in chunk.models:
            job_rows.register_model(
                session,
                name=model.entry.name,
                weights_digest=model.weights_digest,
                source=model.entry.source or model.entry.name,
                document={"defaults": dict(model.entry.defaults)},
            )
        row_ids = [ids[place] for place in chunk.places]
        job_rows.insert_images(session, job, chunk.images, row_ids=row_ids)
        job.rows_loaded = max([row.number for row in checked], default=loaded)
        job.bad_rows += len(bad)
        return [*known, *checked]

    def _checked(self, session: Session, chunk: _Chunk) -> Chunk:
        """The rows with their occurrences in the job; the very same rows if none repeats a key."""
        stored = job_rows.count_key_bases(session, self._job_id, chunk.bases)
        if not stored and not chunk.repeats:
            return chunk.rows
        return list(RowKeys.after(stored).checked(chunk.rows, self._file))


def _collecting(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    for number, chunk in enumerate(chunks, start=1):
        yield chunk
        if number % _COLLECTED_CHUNKS == 0:
            gc.collect()

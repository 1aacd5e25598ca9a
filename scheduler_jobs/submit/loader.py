"""Loads a job's rows and images, chunk by chunk. Each chunk is one transaction."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from operator import is_
from threading import Thread
from typing import Any, NoReturn

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.queries.copied import Written
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.shared_specs import Request
from imagemill.scheduler_jobs.submit.planning.planned_rows import (
    Findings,
    Keys,
    PlannedRow,
    RefusedRow,
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

    `images` are given by the place of their row in `rows`, sample index and request.
    """

    rows: Chunk
    images: Sequence[tuple[int, int, Request]]
    written_rows: Written | None = None
    written_images: Written | None = None

    @classmethod
    def of(cls, rows: Chunk, job_seed: int) -> "_Chunk":
        """The rows with their images."""
        images = [
            (place, sample, request)
            for place, row in enumerate(rows)
            if isinstance(row, PlannedRow)
            for sample, request in enumerate(row.requests(job_seed))
        ]
        return cls(rows=rows, images=images)

    def written(self, dialect: Any) -> "_Chunk":
        """The chunk with its text for COPY, except where that would take much memory."""
        if not self.images or sum(len(row.verbatim) for row in self.rows) > _WRITTEN_CHARACTERS:
            return self
        images = [(sample, request) for _, sample, request in self.images]
        return replace(
            self,
            written_rows=job_rows.write_rows(self.rows, dialect),
            written_images=job_rows.write_images(images, dialect),
        )


class Loading:
    """Loads one job chunk by chunk, and registers models when they first appear.

    A chunk that is in the database already, from a producer that was killed, is only checked.
    """

    def __init__(
        self, job_id: int, request: SubmissionRequest, database: Database, file: str
    ) -> None:
        self.rows = 0
        self.findings = Findings()
        self.foreign = ForeignCounts()
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
                loaded = self._added(chunk)
        except Exception:
            if loaded is not None:
                wait([loaded])
            raise
        if loaded is not None:
            loaded.result()
            yield self.rows

    def add(self, chunk: _Chunk) -> None:
        """Insert a chunk's rows that are not in the database yet."""
        if self.hopeless:
            for row in chunk.rows:
                self._note(row)
            return
        checked = self._database.run(lambda session: self._insert(session, chunk))
        for row in checked:
            self._note(row)

    def _made(self, rows: Chunk) -> _Chunk:
        """The chunk with its images, whose keys are made while the database has other work."""
        if self.hopeless:
            return _Chunk(rows=rows, images=())
        chunk = _Chunk.of(rows, self._request.seed)
        for _, _, request in chunk.images:
            request.keys()
        return chunk

    def _added(self, chunk: _Chunk) -> Future[None]:
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
    def hopeless(self) -> bool:
        """Whether the job will be rejected. Then the rest is only read for its problems."""
        return bool(self.findings.problems) and (
            self.findings.fatal or not self._request.skip_bad_rows
        )

    @property
    def empty(self) -> bool:
        """Whether every row was bad, so that the job has nothing to render."""
        return 0 < self.rows == self.findings.bad_rows

    def reject(self) -> NoReturn:
        """Delete what was loaded, and raise the `ManifestError` that says why."""
        error = self.findings.error(self._file)
        self._database.run(
            lambda session: lifecycle.reject(session, self._job_id, message=error.message)
        )
        raise error

    def _note(self, row: PlannedRow | RefusedRow) -> None:
        self.rows += 1
        if isinstance(row, RefusedRow):
            self.findings.add(row)
        elif row.foreign:
            self.foreign.add(row.foreign, row.excerpt)

    def _insert(self, session: Session, chunk: _Chunk) -> Chunk:
        job = job_rows.lock_loading(session, self._job_id)
        known = [row for row in chunk.rows if row.number <= job.rows_loaded]
        rows = chunk.rows[len(known) :]
        bases = {row.key_base for row in rows if row.key_base is not None}
        keys = Keys.after(job_rows.count_key_bases(session, job.id, bases))
        checked = list(keys.checked(rows, self._file))
        bad = [row for row in checked if isinstance(row, RefusedRow)]
        if bad and not self._request.skip_bad_rows:
            return [*known, *checked]
        if len(known) > 0 or not all(map(is_, checked, chunk.rows)):
            # Some are there already, or are equal to earlier ones, which gives them other keys.
            chunk = _Chunk.of(checked, self._request.seed)
        ids = job_rows.insert_rows(session, job, checked, written=chunk.written_rows)
        self._register_models(session, checked)
        images = [(ids[place], sample, request) for place, sample, request in chunk.images]
        job_rows.insert_images(session, job, images, written=chunk.written_images)
        job.rows_loaded = max((row.number for row in checked), default=job.rows_loaded)
        job.bad_rows += len(bad)
        return [*known, *checked]

    def _register_models(self, session: Session, rows: Iterable[PlannedRow | RefusedRow]) -> None:
        models = {
            cell.model.weights_digest: cell.model
            for row in rows
            if isinstance(row, PlannedRow)
            for cell in row.cells
        }
        for _, model in sorted(models.items()):
            job_rows.register_model(
                session,
                name=model.entry.name,
                weights_digest=model.weights_digest,
                source=model.entry.source or model.entry.name,
                document={"defaults": dict(model.entry.defaults)},
            )


def _collecting(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    for number, chunk in enumerate(chunks, start=1):
        yield chunk
        if number % _COLLECTED_CHUNKS == 0:
            gc.collect()

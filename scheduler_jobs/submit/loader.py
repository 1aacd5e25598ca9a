"""Loading a job: its rows and images, chunk by chunk, each chunk in one transaction."""

from collections.abc import Iterable
from typing import NoReturn

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import ManifestError
from imagemill.db.queries import job_rows, jobs
from imagemill.db.queries.job_rows import NewRow
from imagemill.scheduler_jobs.submit.foreign_syntax import ForeignCounts
from imagemill.scheduler_jobs.submit.planned_rows import BadRow, Findings, Keys, SettledRow
from imagemill.scheduler_jobs.submit.request import SubmissionRequest


class Loading:
    """Loading a job: chunk by chunk, each in one transaction, models registered as they appear."""

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

    def add(self, chunk: list[SettledRow | BadRow]) -> None:
        """Insert a chunk's rows that are not in the database yet."""
        if self.hopeless:
            for settled in chunk:
                self._note(settled)
            return
        checked = self._database.run(lambda session: self._insert(session, chunk))
        for settled in checked:
            self._note(settled)

    @property
    def hopeless(self) -> bool:
        """Whether the job will be rejected: then rows are only read for their problems."""
        return bool(self.findings.problems) and (
            self.findings.fatal or not self._request.skip_bad_rows
        )

    @property
    def empty(self) -> bool:
        """Whether every row was bad: then there is nothing that a job could render."""
        return 0 < self.rows == self.findings.bad_rows

    def reject(self) -> NoReturn:
        """Drop what was loaded, and raise the `ManifestError` that says why."""
        count = self.findings.bad_rows
        message = f"{self._file}: {count} bad {'row' if count == 1 else 'rows'}"
        self._database.run(lambda session: jobs.reject(session, self._job_id, message=message))
        raise ManifestError(message, problems=tuple(self.findings.problems))

    def _note(self, settled: SettledRow | BadRow) -> None:
        self.rows += 1
        if isinstance(settled, BadRow):
            self.findings.add(settled)
        elif settled.foreign:
            self.foreign.add(settled.number, settled.foreign)

    def _insert(
        self, session: Session, chunk: list[SettledRow | BadRow]
    ) -> list[SettledRow | BadRow]:
        job = job_rows.lock_loading(session, self._job_id)
        known = [row for row in chunk if (row.number or 0) <= job.rows_loaded]
        chunk = chunk[len(known) :]
        bases = {row.key_base for row in chunk if isinstance(row, SettledRow)}
        keys = Keys.after(job_rows.count_key_bases(session, job.id, bases))
        checked = list(keys.checked(chunk, self._file))
        bad = [row for row in checked if isinstance(row, BadRow)]
        if bad and not self._request.skip_bad_rows:
            return [*known, *checked]
        ids = job_rows.insert_rows(
            session,
            job,
            [_new_row(row) for row in checked],
            [row.occurrence if isinstance(row, SettledRow) else 0 for row in checked],
        )
        self._register_models(session, checked)
        images = [
            (row_id, sample, spec)
            for row_id, row in zip(ids, checked, strict=True)
            if isinstance(row, SettledRow)
            for sample, spec in enumerate(row.specs(self._request.seed))
        ]
        job_rows.insert_images(session, job, images)
        job.rows_loaded = max((row.number or 0 for row in checked), default=job.rows_loaded)
        job.bad_rows += len(bad)
        return [*known, *checked]

    def _register_models(self, session: Session, rows: Iterable[SettledRow | BadRow]) -> None:
        models = {
            cell.model.weights_digest: cell.model
            for row in rows
            if isinstance(row, SettledRow)
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


def _new_row(row: SettledRow | BadRow) -> NewRow:
    if isinstance(row, BadRow):
        return NewRow(
            number=row.number or 0,
            line=row.line or 0,
            verbatim="",
            extras={},
            key_base=None,
            problem="\n".join(str(problem) for problem in row.problems),
        )
    given = row.row
    return NewRow(
        number=given.number,
        line=given.line,
        verbatim=given.verbatim,
        extras=given.extras,
        key_base=row.key_base,
        template=row.template,
    )

"""Labels and notes of jobs: what people say about them. Neither changes what is rendered."""

from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import ColumnElement, and_, delete, exists, select
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.queries.bulk import insert_or_update
from imagemill.db.tables import Job, JobLabel, JobNote


def set_labels(
    session: Session, job_id: int, labels: Mapping[str, str], *, without: Collection[str] = ()
) -> None:
    """Give a job these labels, a key's new value in the place of its old one.

    The labels whose keys are `without` are taken away first.
    """
    if without:
        gone = delete(JobLabel).where(JobLabel.job_id == job_id, JobLabel.key.in_(list(without)))
        session.execute(gone)
    for key, value in sorted(labels.items()):
        row = {"job_id": job_id, "key": key, "value": value}
        session.execute(insert_or_update(session, JobLabel, row, keys=("job_id", "key")))


def set_note(session: Session, job_id: int, text: str) -> None:
    """Write a job's note in the place of the one before; an empty text takes it away."""
    if not text:
        session.execute(delete(JobNote).where(JobNote.job_id == job_id))
        return
    row = {"job_id": job_id, "text": text, "at": now()}
    session.execute(insert_or_update(session, JobNote, row, keys=("job_id",)))


def find_labels(session: Session, job_ids: Iterable[int]) -> dict[int, dict[str, str]]:
    """The labels of these jobs, by key; a job without any is left out."""
    query = select(JobLabel).where(JobLabel.job_id.in_(list(job_ids)))
    found: dict[int, dict[str, str]] = {}
    for label in session.scalars(query.order_by(JobLabel.job_id, JobLabel.key)):
        found.setdefault(label.job_id, {})[label.key] = label.value
    return found


def find_notes(session: Session, job_ids: Iterable[int]) -> dict[int, str]:
    """The notes of these jobs; a job without one is left out."""
    query = select(JobNote.job_id, JobNote.text).where(JobNote.job_id.in_(list(job_ids)))
    return {job_id: text for job_id, text in session.execute(query)}  # noqa: C416 - rows, not pairs


def has_labels(wanted: Iterable[tuple[str, str | None]]) -> ColumnElement[bool]:
    """The condition that a job has all of these labels; None is any value of the key."""
    return and_(True, *(_has(key, value) for key, value in wanted))


def _has(key: str, value: str | None) -> ColumnElement[bool]:
    label = and_(JobLabel.job_id == Job.id, JobLabel.key == key)
    return exists().where(label if value is None else and_(label, JobLabel.value == value))

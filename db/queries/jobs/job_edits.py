"""Changing when and by whom a job is rendered, after it was submitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.db.labels import labels_as_text
from imagemill.db.queries.jobs.deadline import deadline_of
from imagemill.db.queries.jobs.lifecycle import MATCHED, find_job
from imagemill.db.queries.jobs.seats import set_max_workers
from imagemill.db.tables import Job

NO_LIMIT = 0
"""The value of `max_workers` that removes the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEdit:
    """The changes to a job. What is None stays as it is."""

    priority: int | None = None
    weight: int | None = None
    max_workers: int | None = None
    """`NO_LIMIT` takes the limit away."""
    needs: Mapping[str, str] | None = None
    """All labels that it needs from then on."""
    deadline: timedelta | datetime | None = None
    no_deadline: bool = False


def edit_job(session: Session, reference: str, edit: JobEdit) -> Job:
    """Change a job and return it. Images that workers hold already are not touched.

    Raises `UsageError` if the job is cancelled or rejected, `UnknownJob` if there is none.
    """
    found = find_job(session, reference)
    # Locked, so that two edits at the same time do not add the same seats.
    job = session.scalars(
        select(Job).where(Job.id == found.id).with_for_update(key_share=True)
    ).one()
    if job.state not in MATCHED:
        raise UsageError(f"job {job.id} ({job.name}) is {job.state}: nothing can be changed")
    values = {"priority": edit.priority, "weight": edit.weight}
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if edit.needs is not None:
        given["needs"] = labels_as_text(edit.needs)
    if edit.deadline is not None or edit.no_deadline:
        given["deadline_at"] = deadline_of(edit.deadline)
    if given:
        session.execute(update(Job).where(Job.id == job.id).values(**given))
    if edit.max_workers is not None:
        set_max_workers(session, job.id, edit.max_workers or None)
    session.refresh(job)
    return job

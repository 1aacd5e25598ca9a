"""Why nothing of a job is in work although images are ready."""

from enum import StrEnum

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from imagemill.db.labels import labels_of
from imagemill.db.queries.fleet.memory import list_waiting_for_memory
from imagemill.db.queries.fleet.reports import count_waiting, is_served
from imagemill.db.queries.images import in_state
from imagemill.db.queries.jobs.lifecycle import shown_state
from imagemill.db.queries.tallies import Counts
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Job


class Idle(StrEnum):
    """What a job waits for."""

    RETRY = "waiting to try failed images again"
    WORKER = "waiting for a worker"
    MEMORY = "waiting for a card with more memory"
    TURN = "waiting for its turn"
    """Its workers render images of other jobs."""


def why_idle(session: Session, job: Job, counts: Counts) -> Idle | None:
    """What an open job waits for, if it has ready images and no worker has any in work.

    None also where a free worker is there: between two of its claims nothing is leased, and
    nothing is waited for.
    """
    if shown_state(job, counts) != JobState.OPEN or counts.leased or not counts.ready:
        return None
    failed = count_waiting(session, job.id)
    if failed is not None and failed.images >= counts.ready:
        return Idle.RETRY
    if not is_served(session, job.route, labels_of(job.needs)):
        return Idle.WORKER
    too_large = list_waiting_for_memory(session, job_id=job.id)
    if sum(each.images for each in too_large) >= counts.ready:
        return Idle.MEMORY
    leased = session.scalar(select(exists().where(in_state(ImageState.LEASED))))
    return Idle.TURN if leased else None

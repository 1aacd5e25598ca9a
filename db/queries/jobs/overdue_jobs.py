"""Jobs whose deadline has passed: what is not rendered of them is cancelled."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.queries.jobs.lifecycle import cancel, pending_images
from imagemill.db.states import JobState
from imagemill.db.tables import Job

_JOBS_AT_ONCE = 5
"""A cancellation takes a while where a job is large; the next round goes on."""


def cancel_overdue(session: Session) -> int:
    """Cancel every job whose deadline has passed, with that as its reason; how many there were.

    Images that workers hold are cancelled within a heartbeat, when they let go of them. A job that
    has nothing left to render is not cancelled: it only waits to be finished.
    """
    loading = Job.state == JobState.LOADING
    to_do = Job.state.in_((JobState.OPEN, JobState.PAUSED)) & (pending_images() > 0)
    overdue = select(Job.id, Job.deadline_at).where(Job.deadline_at <= now(), loading | to_do)
    rows = session.execute(overdue.order_by(Job.id).limit(_JOBS_AT_ONCE)).all()
    return sum(
        cancel(session, job_id, message=f"its deadline passed: {at:%Y-%m-%d %H:%M:%S} UTC")
        for job_id, at in rows
    )

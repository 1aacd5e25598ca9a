"""What is ready, as a test asks for it."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Job, Tally


def ready_images(session: Session) -> dict[str, int]:
    """How many images are ready in open jobs, by route."""
    rows = session.execute(
        select(Job.route, func.sum(Tally.delta))
        .join(Tally, Tally.job_id == Job.id)
        .where(Job.state == JobState.OPEN, Tally.state == ImageState.READY)
        .group_by(Job.route)
    )
    return {route: int(total) for route, total in rows if total}

"""The progress of open jobs: which of them fail in number, and which stand still.

Each look compares a job's counts with those of the look before. A notification is written in the
same transaction as the mark that it was written, so only one of several dispatchers writes it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.queries.bulk import insert_new
from imagemill.db.queries.images import in_state
from imagemill.db.queries.notifications import FAILING, STALLED, Audience, announce
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Image, Job, JobWatch

_SHOWN_CODES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchRules:
    """When a job counts as failing or stalled.

    It fails if at least `dead_images` are dead, and they are at least the part `dead_share` (0 to
    1) of those that are done or dead. It is stalled if no image became done for `stalled_seconds`
    although some are ready.
    """

    dead_images: int
    dead_share: float
    stalled_seconds: float

    def is_failing(self, counts: Counts) -> bool:
        """Whether a job with these counts fails in number."""
        ended = counts.done + counts.dead
        return counts.dead >= self.dead_images and counts.dead >= self.dead_share * ended


@dataclass(frozen=True, kw_only=True, slots=True)
class _Watched:
    """An open job and what is known of it."""

    job_id: int
    route: str
    priority: int
    counts: Counts
    since: datetime
    failing: bool
    stalled: bool


def watch_jobs(session: Session, rules: WatchRules, audience: Audience) -> int:
    """Look at every open job, and tell what is new; how many notifications that made."""
    at = session.scalars(select(now())).one()
    jobs = _look(session)
    still = {each.job_id: (at - each.since).total_seconds() for each in jobs}
    moving = {
        (each.route, each.priority) for each in jobs if still[each.job_id] < rules.stalled_seconds
    }
    failing = [each.job_id for each in jobs if rules.is_failing(each.counts)]
    stalled = [
        each.job_id
        for each in jobs
        if each.counts.ready
        and still[each.job_id] >= rules.stalled_seconds
        # It only waits for its turn while a job that goes first is rendered.
        and not any(route == each.route and priority > each.priority for route, priority in moving)
    ]
    since = {each.job_id: {"since": each.since.isoformat()} for each in jobs}
    newly_failing = _mark(session, jobs, "failing", failing)
    told = announce(
        session,
        FAILING,
        newly_failing,
        audience,
        more={job_id: {"codes": _codes(session, job_id)} for job_id in newly_failing},
    )
    return told + announce(
        session, STALLED, _mark(session, jobs, "stalled", stalled), audience, more=since
    )


def _look(session: Session) -> list[_Watched]:
    """Every open job, its watch up to date; jobs that are not open any more are forgotten."""
    open_jobs = select(Job.id).where(Job.state == JobState.OPEN)
    session.execute(delete(JobWatch).where(JobWatch.job_id.not_in(open_jobs)))
    query = (
        select(Job.id, Job.route, Job.priority, JobWatch)
        .join(JobWatch, JobWatch.job_id == Job.id, isouter=True)
        .where(Job.state == JobState.OPEN)
        .order_by(Job.id)
        .execution_options(populate_existing=True)
    )
    rows = session.execute(query).all()
    counts = count_images(session, [row.id for row in rows])
    new = [
        {"job_id": row.id, "done": counts[row.id].done, "failing": False, "stalled": False}
        for row in rows
        if row.JobWatch is None
    ]
    if new:
        session.execute(insert_new(session, JobWatch, new))
    for row in rows:
        if row.JobWatch is not None and row.JobWatch.done != counts[row.id].done:
            moved = update(JobWatch).where(JobWatch.job_id == row.id)
            session.execute(moved.values(done=counts[row.id].done, since=now()))
    return [
        _Watched(
            job_id=row.id,
            route=row.route,
            priority=row.priority,
            counts=counts[row.id],
            since=row.JobWatch.since,
            failing=row.JobWatch.failing,
            stalled=row.JobWatch.stalled,
        )
        for row in session.execute(query)
        # Another dispatcher may have opened or forgotten one in between.
        if row.JobWatch is not None and row.id in counts
    ]


def _mark(
    session: Session, jobs: Collection[_Watched], what: str, now_so: Collection[int]
) -> list[int]:
    """Mark the jobs that are `failing` or `stalled`, and unmark the others; those newly marked."""
    column = getattr(JobWatch, what)
    before = {each.job_id for each in jobs if getattr(each, what)}
    newly: list[int] = []
    for job_id in sorted(set(now_so) ^ before):
        so = job_id in now_so
        changed = session.execute(
            update(JobWatch)
            .where(and_(JobWatch.job_id == job_id, column.is_(not so)))
            .values({what: so})
            .returning(JobWatch.job_id)
        ).first()
        if so and changed is not None:
            newly.append(job_id)
    return newly


def _codes(session: Session, job_id: int) -> Mapping[str, Any]:
    """The most frequent error codes of a job's dead images, with how many died of each."""
    rows = session.execute(
        select(Image.error_code, func.count())
        .where(Image.job_id == job_id, in_state(ImageState.DEAD))
        .group_by(Image.error_code)
        .order_by(func.count().desc(), Image.error_code)
        .limit(_SHOWN_CODES)
    )
    return {code or "": images for code, images in rows}

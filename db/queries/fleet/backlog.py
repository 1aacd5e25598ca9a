"""What the fleet has to do and is doing, for the dispatcher's metrics: a few cheap reads.

Counts come from the tallies, leases from their partial indexes. What became done is read once, by
a cursor, so a scrape costs as much as what happened since the last one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, case, exists, func, literal_column, select
from sqlalchemy.orm import Session, aliased

from imagemill.db.clock import now
from imagemill.db.queries.fleet.reports import UNFINISHED
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Group, Image, Job, Model, Object, Shift, Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """Images of open jobs on one route that may share a forward pass."""

    route: str
    model: str
    width: int
    height: int
    ready: int
    leased: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveJob:
    """A job that may still bring images, with its exact counts."""

    id: int
    name: str
    route: str
    counts: Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Images of one job and outcome that became done, and the engine's time for their pictures.

    `seconds` leaves out pictures that were there before the job: they cost it nothing.
    """

    job_id: int
    job_name: str
    route: str
    outcome: str
    images: int
    seconds: float


def list_backlog(session: Session) -> list[Backlog]:
    """Ready and leased images of open jobs, by route and group."""
    states: dict[tuple[str, int], dict[str, int]] = {}
    about: dict[int, tuple[str, int, int]] = {}
    rows = session.execute(
        select(
            *(Job.route, Group.id, Model.name, Group.document, Tally.state),
            func.sum(Tally.delta),
        )
        .join_from(Tally, Job, Job.id == Tally.job_id)
        .join(Group, Group.id == Tally.group_id)
        .join(Model, Model.id == Group.model_id)
        .where(Tally.state.in_((ImageState.READY, ImageState.LEASED)), Job.state == JobState.OPEN)
        .group_by(Job.route, Group.id, Model.name, Tally.state)
        .order_by(Job.route, Group.id)
    )
    for route, group_id, model, document, state, total in rows:
        # A JSON column may hold anything; a group that can't be read must not end all metrics.
        known: Mapping[str, object] = document if isinstance(document, dict) else {}
        width, height = known.get("width"), known.get("height")
        about[group_id] = (
            model,
            width if isinstance(width, int) else 0,
            height if isinstance(height, int) else 0,
        )
        states.setdefault((route, group_id), {})[state] = int(total)
    return [
        Backlog(
            route=route,
            model=about[group_id][0],
            width=about[group_id][1],
            height=about[group_id][2],
            ready=counts.get(ImageState.READY, 0),
            leased=counts.get(ImageState.LEASED, 0),
        )
        for (route, group_id), counts in states.items()
    ]


def oldest_ready(session: Session) -> dict[str, float]:
    """For how many seconds the oldest job with ready images has been open, by route."""
    rows = session.execute(
        select(Job.route, Job.opened_at, now())
        .join(Tally, Tally.job_id == Job.id)
        .where(Tally.state == ImageState.READY, Job.state == JobState.OPEN)
        .group_by(Job.id, Job.route, Job.opened_at)
        .having(func.sum(Tally.delta) > 0)
    )
    ages: dict[str, float] = {}
    for route, opened_at, at in rows:
        if isinstance(opened_at, datetime):
            age = max(0.0, (at - opened_at).total_seconds())
            ages[route] = max(age, ages.get(route, 0.0))
    return ages


def count_stale_leases(session: Session) -> int:
    """Shifts whose lease is over and which nobody has ended: the dispatcher should have."""
    query = select(func.count(Shift.id)).where(Shift.ended_at.is_(None), Shift.lease_until <= now())
    return session.scalar(query) or 0


def count_lost_shifts(session: Session) -> int:
    """Shifts that ever lost their lease. It reads only those, by an index of their own."""
    # A literal, as the index has it: a planner does not see through a parameter.
    lost = Shift.end_reason == literal_column("'lost'")
    return session.scalar(select(func.count(Shift.id)).where(lost)) or 0


def list_live_jobs(session: Session, *, limit: int) -> list[LiveJob]:
    """The newest jobs that may still bring images."""
    rows = session.execute(
        select(Job.id, Job.name, Job.route)
        .where(Job.state.in_(UNFINISHED))
        .order_by(Job.id.desc())
        .limit(limit)
    ).all()
    counts = count_images(session, [row.id for row in rows])
    return [
        LiveJob(id=row.id, name=row.name, route=row.route, counts=counts[row.id]) for row in rows
    ]


def sum_finished(session: Session, image_ids: Collection[int]) -> list[Finished]:
    """These done images by job and outcome.

    The time for a picture that several images of a job share goes with the first of them, by its
    id. So it counts once, also where the others stand on another page of what became done.
    """
    other = aliased(Image)
    first = ~exists().where(
        other.object_id == Image.object_id, other.job_id == Image.job_id, other.id < Image.id
    )
    own = and_(first, Object.created_at >= Job.created_at)
    rows = session.execute(
        select(
            *(Job.id, Job.name, Job.route, Image.outcome, func.count()),
            func.sum(case((own, Object.seconds), else_=0.0)),
        )
        .join_from(Image, Job, Job.id == Image.job_id)
        .join(Object, Object.id == Image.object_id)
        .where(Image.id.in_(list(image_ids)))
        .group_by(Job.id, Image.outcome)
        .order_by(Job.id, Image.outcome)
    )
    return [
        Finished(
            job_id=job_id,
            job_name=name,
            route=route,
            outcome=outcome or "",
            images=images,
            seconds=float(seconds),
        )
        for job_id, name, route, outcome, images, seconds in rows
    ]

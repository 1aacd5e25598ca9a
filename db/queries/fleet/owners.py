"""Owners of jobs: what each has to do and in work, and the weights by which they share."""

from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.documents import JSON
from imagemill.db.queries.bulk import insert_or_update
from imagemill.db.queries.work.turns import owner_weights
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Job, Owner, Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnerReport:
    """An owner with open jobs, or with a weight of its own."""

    name: str = field(metadata={JSON: "owner"})
    weight: int
    open_jobs: int
    ready: int
    leased: int


def list_owners(session: Session) -> list[OwnerReport]:
    """Everybody with open jobs or a weight, by name; their images of open jobs."""
    counted = (ImageState.READY, ImageState.LEASED)
    rows = session.execute(
        select(Job.owner, Tally.state, func.sum(Tally.delta))
        .join(Tally, Tally.job_id == Job.id)
        .where(Tally.state.in_(counted), Job.state == JobState.OPEN)
        .group_by(Job.owner, Tally.state)
    )
    images = {(owner, state): int(total) for owner, state, total in rows}
    open_jobs = select(Job.owner, func.count()).where(Job.state == JobState.OPEN)
    jobs = {owner: count for owner, count in session.execute(open_jobs.group_by(Job.owner))}  # noqa: C416 - rows, not pairs
    weighed = set(session.scalars(select(Owner.name)))
    names = sorted(jobs.keys() | weighed)
    weights = owner_weights(session, names)
    return [
        OwnerReport(
            name=name,
            weight=weights.get(name, 1),
            open_jobs=jobs.get(name, 0),
            ready=images.get((name, ImageState.READY), 0),
            leased=images.get((name, ImageState.LEASED), 0),
        )
        for name in names
    ]


def weigh_owner(session: Session, name: str, weight: int) -> None:
    """Give an owner a weight, in the place of the one before."""
    row = {"name": name, "weight": weight}
    session.execute(insert_or_update(session, Owner, row, keys=("name",)))

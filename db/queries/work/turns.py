"""Whose turn it is: priority, then owners by their share, then each owner's jobs by theirs.

The share of an owner or a job is its images in work, divided by its weight; the smallest share goes
first. Where few images are in work, such shares say little, so each has a lot added: a random
number that becomes smaller with the weight. So with one worker or with a hundred, nobody waits for
ever, and in the mean everybody gets a part in proportion to the weight. A lot needs no record of
who had what, which workers would have to write with each claim.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from imagemill.db.states import ImageState
from imagemill.db.tables import Job, Owner, Tally


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job with ready images, and what counts for its turn."""

    job_id: int
    priority: int
    owner: str
    weight: int
    max_workers: int | None
    needs: str = ""


class Turns:
    """The turns of some jobs, drawn once: the smaller a job's `place`, the sooner its turn."""

    def __init__(self, jobs: Collection[WaitingJob], *, unit: int, session: Session) -> None:
        """Draw the lots. `unit` is how many images are claimed at once."""
        self._places: dict[int, tuple[int, float, float]] = {}
        if len(jobs) == 1:  # the usual case costs no question
            (job,) = jobs
            self._places = {job.job_id: (-job.priority, 0.0, 0.0)}
            return
        in_work = _images_in_work(session)
        owned: Counter[str] = Counter()
        for (owner, _), images in in_work.items():
            owned[owner] += images
        owners = {job.owner for job in jobs}
        weights = owner_weights(session, owners) if len(owners) > 1 else {}
        owner_lots = {
            owner: _lot(owned[owner], weights.get(owner, 1), unit) for owner in sorted(owners)
        }
        for job in sorted(jobs, key=lambda job: job.job_id):
            lot = _lot(in_work.get((job.owner, job.job_id), 0), job.weight, unit)
            self._places[job.job_id] = (-job.priority, owner_lots[job.owner], lot)

    def place(self, job_id: int) -> tuple[int, float, float]:
        """The job's place: by priority, by its owner, and among the owner's jobs."""
        return self._places[job_id]


_WEIGHTS = select(Owner.name, Owner.weight).where(
    Owner.name.in_(bindparam("owners", expanding=True))
)


def in_turn(session: Session, jobs: Collection[WaitingJob], *, unit: int) -> list[WaitingJob]:
    """These jobs in the order of their turns; as for `Turns`."""
    if len(jobs) < 2:
        return list(jobs)
    turns = Turns(jobs, unit=unit, session=session)
    return sorted(jobs, key=lambda job: turns.place(job.job_id))


def owner_weights(session: Session, owners: Collection[str]) -> Mapping[str, int]:
    """The weights of those of these owners who were given one; that of all others is 1."""
    rows = session.execute(_WEIGHTS, {"owners": list(owners)})
    return {name: weight for name, weight in rows}  # noqa: C416 - rows, not pairs


def _images_in_work(session: Session) -> dict[tuple[str, int], int]:
    """The leased images of each job with any, by owner and job."""
    rows = session.execute(_IN_WORK)
    return {(owner, job_id): int(images) for owner, job_id, images in rows}


_IN_WORK = (
    select(Job.owner, Job.id, func.sum(Tally.delta))
    .join(Tally, Tally.job_id == Job.id)
    .where(Tally.state == ImageState.LEASED)
    .group_by(Job.owner, Job.id)
)


def _lot(in_work: int, weight: int, unit: int) -> float:
    """A share with its lot. With nothing in work, the chance to be first is as the weight."""
    # The smallest of exponential numbers is each with a chance that is as its rate.
    return (in_work + unit * random.expovariate(1.0)) / weight

"""How fast images of some kind were rendered before, by device: what a plan predicts from."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.queries.pictures.environments import device_of
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState
from imagemill.db.tables import Environment, Group, Image, Object, Tally

NEWEST_JOBS = 3
"""How many jobs with images of a group are asked, the newest first."""

ENDS = 500
"""How many of the first and of the last images of each of these jobs are read. A job of ten million
images then costs no more than a small one, and of an unfinished job the first images are done."""

MOST_KINDS = 50
"""How many kinds of images are looked up; a grid may have thousands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Images that cost the same: one group (model and size), steps and sampler."""

    group_key: str
    steps: int
    sampler: str

    @classmethod
    def of(cls, spec: ImageSpec) -> "Kind":
        """The kind of an image."""
        return cls(group_key=spec.group_key(), steps=spec.steps, sampler=spec.sampler)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What an image of a kind took on a device: the mean of the engine's seconds."""

    device: str
    device_kind: str
    seconds: float


def measured_rates(session: Session, kinds: Collection[Kind]) -> dict[Kind, list[Rate]]:
    """The rates of each kind; a kind without rendered images is left out."""
    keys = {kind.group_key for kind in kinds}
    groups = session.execute(select(Group.key, Group.id).where(Group.key.in_(keys)))
    ids = {row.key: row.id for row in groups}
    wanted = {(ids.get(kind.group_key, 0), kind.steps, kind.sampler): kind for kind in kinds}
    times: dict[Kind, dict[int, list[float]]] = {}
    for job_id in _newest_jobs(session, ids.values()):
        for place, environment_id, seconds in _rendered(session, job_id):
            if (kind := wanted.get(place)) is not None:
                times.setdefault(kind, {}).setdefault(environment_id, []).append(seconds)
    environments = {environment_id for found in times.values() for environment_id in found}
    rows = session.execute(
        select(Environment.id, Environment.document).where(Environment.id.in_(environments))
    )
    documents = {row.id: row.document for row in rows}
    return {kind: _rates(found, documents) for kind, found in times.items()}


def _newest_jobs(session: Session, group_ids: Collection[int]) -> list[int]:
    """The newest jobs with done images of each group, at most `NEWEST_JOBS` a group."""
    rows = session.execute(
        select(Tally.group_id, Tally.job_id)
        .where(Tally.state == ImageState.DONE, Tally.group_id.in_(list(group_ids)))
        .group_by(Tally.group_id, Tally.job_id)
        .having(func.sum(Tally.delta) > 0)
        .order_by(Tally.job_id.desc())
    )
    jobs: dict[int, list[int]] = {}
    for group_id, job_id in rows:
        jobs.setdefault(group_id, []).append(job_id)
    return sorted({job_id for found in jobs.values() for job_id in found[:NEWEST_JOBS]})


def _rendered(session: Session, job_id: int) -> Iterator[tuple[tuple[int, int, str], int, float]]:
    """Group, steps and sampler, environment, and seconds of the done images at a job's ends."""
    seen: set[int] = set()
    for order in (Image.id.asc(), Image.id.desc()):
        end = (
            select(Image.id, Image.group_id, Image.steps, Image.sampler, Image.object_id)
            .where(Image.job_id == job_id)
            .order_by(order)
            .limit(ENDS)
            .subquery()
        )
        rows = session.execute(
            select(end, Object.environment_id, Object.seconds).join(
                Object, Object.id == end.c.object_id
            )
        ).all()
        for row in rows:
            if row.id not in seen:  # the ends of a small job overlap
                yield (row.group_id, row.steps, row.sampler), row.environment_id, row.seconds
        seen = {row.id for row in rows}


def _rates(times: Mapping[int, list[float]], documents: Mapping[int, Any]) -> list[Rate]:
    """The mean by device, of times by environment."""
    by_device: dict[tuple[str, str], list[float]] = {}
    for environment_id, seconds in times.items():
        by_device.setdefault(device_of(documents[environment_id]), []).extend(seconds)
    return [
        Rate(device=device, device_kind=device_kind, seconds=sum(each) / len(each))
        for (device, device_kind), each in by_device.items()
    ]

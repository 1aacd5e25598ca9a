"""How fast images of some kind were rendered before, by device: what a plan predicts from."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.queries.images import in_state
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState
from imagemill.db.tables import Environment, Group, Image, Object, Tally

NEWEST_JOBS = 3
"""How many jobs with images of a group are asked, the newest first."""

NEWEST_IMAGES = 200
"""How many images of each of them are read, the newest first."""

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
    """The rates of each kind of which images were rendered lately; no others."""
    keys = {kind.group_key for kind in kinds}
    groups = session.execute(select(Group.key, Group.id).where(Group.key.in_(keys)))
    ids = {row.key: row.id for row in groups}
    jobs: dict[int, list[int]] = {}
    rows = session.execute(
        select(Tally.group_id, Tally.job_id)
        .where(Tally.state == ImageState.DONE, Tally.group_id.in_(list(ids.values())))
        .group_by(Tally.group_id, Tally.job_id)
        .having(func.sum(Tally.delta) > 0)
        .order_by(Tally.job_id.desc())
    )
    for group_id, job_id in rows:
        jobs.setdefault(group_id, []).append(job_id)
    found = {}
    for kind in kinds:
        group_id = ids.get(kind.group_key, 0)
        if rates := _rates(session, kind, group_id, jobs.get(group_id, [])[:NEWEST_JOBS]):
            found[kind] = rates
    return found


def _rates(session: Session, kind: Kind, group_id: int, job_ids: list[int]) -> list[Rate]:
    times: dict[int, list[float]] = {}
    for job_id in job_ids:
        rows = session.execute(
            select(Object.environment_id, Object.seconds)
            .join(Image, Image.object_id == Object.id)
            .where(
                Image.job_id == job_id,
                Image.group_id == group_id,
                Image.steps == kind.steps,
                Image.sampler == kind.sampler,
                in_state(ImageState.DONE),
            )
            .order_by(Image.id.desc())
            .limit(NEWEST_IMAGES)
        )
        for environment_id, seconds in rows:
            times.setdefault(environment_id, []).append(seconds)
    known = session.execute(
        select(Environment.id, Environment.document).where(Environment.id.in_(list(times)))
    )
    by_device: dict[tuple[str, str], list[float]] = {}
    for environment_id, document in known:
        device_kind = str(document.get("device", "unknown"))
        device = str(document.get("device_name") or device_kind)
        by_device.setdefault((device, device_kind), []).extend(times[environment_id])
    return [
        Rate(device=device, device_kind=device_kind, seconds=sum(each) / len(each))
        for (device, device_kind), each in by_device.items()
    ]

"""What a job cost: the engine's seconds for its pictures, by device."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.queries.pictures.environments import device_of
from imagemill.db.tables import Environment, Image, Job, Object


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceTime:
    """Pictures of a job that one kind of device rendered for it, and the engine's seconds.

    `device` is the name that the driver or the system gives it, `kind` is `cuda` or `cpu`. A
    second is one of a GPU, or on a CPU one of a worker process.
    """

    device: str
    kind: str
    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class JobTime:
    """A job's pictures by device, the slowest part first, and those that it found ready made."""

    devices: tuple[DeviceTime, ...]
    reused: int


def time_of_job(session: Session, job_id: int) -> JobTime:
    """The engine's time for a job's present pictures. One that images share counts once.

    A picture older than the job was there already, and cost the job nothing. Time of failed
    attempts, of loading models and of waiting is not in it.
    """
    pictures = (
        select(Image.object_id)
        .where(Image.job_id == job_id, Image.object_id.is_not(None))
        .distinct()
        .subquery()
    )
    submitted = select(Job.created_at).where(Job.id == job_id).scalar_subquery()
    own = Object.created_at >= submitted
    rows = session.execute(
        select(Object.environment_id, own, func.count(), func.sum(Object.seconds))
        .join(pictures, pictures.c.object_id == Object.id)
        .group_by(Object.environment_id, own)
    ).all()
    known = session.execute(
        select(Environment.id, Environment.document).where(
            Environment.id.in_({row[0] for row in rows})
        )
    )
    documents = {row.id: row.document for row in known}
    found: dict[tuple[str, str], tuple[int, float]] = {}
    reused = 0
    for environment_id, rendered, images, seconds in rows:
        if not rendered:
            reused += images
            continue
        device = device_of(documents[environment_id])
        before = found.get(device, (0, 0.0))
        found[device] = (before[0] + images, before[1] + float(seconds))
    devices = (
        DeviceTime(device=device, kind=kind, images=images, seconds=seconds)
        for (device, kind), (images, seconds) in found.items()
    )
    return JobTime(devices=tuple(sorted(devices, key=lambda each: -each.seconds)), reused=reused)

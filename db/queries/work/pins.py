"""Pins: a worker that an operator pins takes only the images of one job, or of one model."""

from dataclasses import dataclass
from typing import TypedDict

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import seconds_from_now
from imagemill.db.errors import UnknownJob, UsageError
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.work.presence import ALIVE_SECONDS, alive, find_alive, names_of
from imagemill.db.tables import Model, Worker

_JOB, _MODEL = "job:", "model:"


@dataclass(frozen=True, kw_only=True, slots=True)
class PinTarget:
    """What a worker is pinned to: a job, or a model by its name."""

    job_id: int | None = None
    job_name: str | None = None
    model: str | None = None

    def __str__(self) -> str:
        """In words."""
        return f"model {self.model}" if self.model else f"job {self.job_id} ({self.job_name})"


class _Pin(TypedDict):
    pinned_as: str | None
    pinned_job_id: int | None
    pinned_model: str | None


_NO_PIN = _Pin(pinned_as=None, pinned_job_id=None, pinned_model=None)


def find_target(session: Session, text: str) -> PinTarget:
    """The job (an id, a name or `latest`) or the model that a text names.

    `job:TEXT` is a job only, `model:TEXT` a model only. Raises `UsageError` if there is neither,
    or both.
    """
    job = model = None
    if not text.startswith(_MODEL):
        try:
            job = find_job(session, text.removeprefix(_JOB))
        except UnknownJob:
            if text.startswith(_JOB):
                raise
    if not text.startswith(_JOB):
        named = select(Model.name).where(Model.name == text.removeprefix(_MODEL)).limit(1)
        model = session.scalar(named)
    if job is not None and model is not None:
        raise UsageError(f"{text} is a job and a model: say job:{text} or model:{text}")
    if job is not None:
        return PinTarget(job_id=job.id, job_name=job.name)
    if model is not None:
        return PinTarget(model=model)
    raise UsageError(f"no job {text}, and no job asked for images of a model {text}")


def pin(session: Session, name: str, target: PinTarget) -> list[str]:
    """Let live workers take only images of the target; the names of their processes.

    `name` is as for `find_alive`, which raises `UsageError` if no live worker has it.
    """
    chosen = find_alive(session, name)
    values = _Pin(pinned_as=name, pinned_job_id=target.job_id, pinned_model=target.model)
    _write(session, chosen, values)
    return sorted(chosen.values())


def unpin(session: Session, name: str) -> list[str]:
    """Take the pins of live workers away; the names of the processes that had one.

    Raises `UsageError` if no live worker has the name, or none of them is pinned.
    """
    find_alive(session, name)
    pinned = select(Worker.id, Worker.name, Worker.host).where(Worker.pinned_as.is_not(None))
    rows = session.execute(pinned.where(alive() | _seen_lately())).all()
    # Those that stopped a moment ago too: a process that replaces one would take over its pin.
    chosen = {row.id: row.name for row in rows if name in names_of(row.name, row.host)}
    if not chosen:
        raise UsageError(f"worker {name} is not pinned; `imagemill workers` shows who is")
    _write(session, chosen, _NO_PIN)
    return sorted(set(chosen.values()))


def inherited_pin(session: Session, *, process: str, host: str) -> _Pin:
    """The pin of a process that starts: that of its worker or host, if one of these is pinned.

    A pin by a process's own name ends with the process. A worker or a host that has no process
    for two minutes loses its pin.
    """
    names = names_of(process, host) - {process}
    found = session.execute(
        select(Worker.pinned_as, Worker.pinned_job_id, Worker.pinned_model)
        .where(Worker.pinned_as.in_(sorted(names)), Worker.host == host, _seen_lately())
        .order_by(Worker.id.desc())
        .limit(1)
    ).first()
    if found is None:
        return _NO_PIN
    return _Pin(
        pinned_as=found.pinned_as,
        pinned_job_id=found.pinned_job_id,
        pinned_model=found.pinned_model,
    )


def _write(session: Session, ids: dict[int, str], values: _Pin) -> None:
    session.execute(update(Worker).where(Worker.id.in_(list(ids))).values(**values))


def _seen_lately() -> ColumnElement[bool]:
    return Worker.seen_at > seconds_from_now(-ALIVE_SECONDS)

"""What a worker may take: what it is pinned to, has the labels for, and has the memory for."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from imagemill.db.labels import has_all, labels_of
from imagemill.db.queries.images import live_shift
from imagemill.db.queries.work.memory_needs import Card
from imagemill.db.queries.work.turns import WaitingJob
from imagemill.db.tables import Shift, Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerScope:
    """What one worker process may take. A scope without a worker is that of any unpinned one."""

    worker_id: int | None = None
    pinned_job_id: int | None = None
    pinned_model: str | None = None
    labels: str = ""
    card: Card | None = None
    """Its memory for models; None if nobody knows it, and on a CPU."""

    def admits(self, job: WaitingJob, model: str) -> bool:
        """Whether it may take images of this job and model."""
        if self.pinned_job_id not in {None, job.job_id}:
            return False
        if not has_all(labels_of(self.labels), labels_of(job.needs)):
            return False
        return self.pinned_model in {None, model}


ANY_WORKER = WorkerScope()

SCOPE = (
    *(Worker.id, Worker.pinned_job_id, Worker.pinned_model, Worker.labels),
    *(Worker.memory_bytes, Worker.tuning),
)
"""The columns of a worker that `read_scope` reads."""


def scope_of(session: Session, worker_id: int) -> WorkerScope:
    """The scope of a worker, as it is now; raises `NoResultFound` if there is none."""
    return read_scope(session.execute(select(*SCOPE).where(Worker.id == worker_id)).one())


def hold_with_scope(session: Session, shift_id: int) -> WorkerScope | None:
    """As `images.hold`, and the scope of the shift's worker; None if the lease is over."""
    found = session.execute(_HELD, {"shift": shift_id}).first()
    return None if found is None else read_scope(found)


_HELD = (
    select(*SCOPE)
    .join(Shift, Shift.worker_id == Worker.id)
    .where(live_shift(bindparam("shift")))
    .with_for_update(read=True, of=Shift)
)


def card_of(memory_bytes: int | None, tuning: str) -> Card | None:
    """The card in these columns of a worker."""
    return None if memory_bytes is None else Card(memory_bytes=memory_bytes, tuning=tuning)


def read_scope(row: Any) -> WorkerScope:
    """The scope in the columns `SCOPE` of a worker."""
    worker_id, job_id, model, labels, memory_bytes, tuning = row
    return WorkerScope(
        worker_id=worker_id,
        pinned_job_id=job_id,
        pinned_model=model,
        labels=labels,
        card=card_of(memory_bytes, tuning),
    )

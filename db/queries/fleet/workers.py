"""The fleet, worker by worker: what each does and how fast, and the order to drain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Select, case, func, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.documents import JSON
from imagemill.db.labels import labels_of
from imagemill.db.queries.fleet.reports import RATE_EVENTS, RATE_SECONDS
from imagemill.db.queries.images import in_state
from imagemill.db.queries.work.presence import alive, find_alive, lost
from imagemill.db.states import ImageState
from imagemill.db.tables import Attempt, Environment, Image, Object, Shift, Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetWorker:
    """A worker process and what it does.

    `state` is `renders`, `waits`, `drains` (it gives back what it holds), `drained` (it takes
    nothing until it is resumed), `lost` (it gives no more signs of life) or `stopped`. `since` is
    when its shift began, or else when it started; when a lost one was last seen, and a stopped one
    stopped. `model` is what it renders or rendered last, `slots` its B then; None until a picture
    is done.
    """

    name: str = field(metadata={JSON: "worker"})
    host: str
    pid: int
    device: str
    device_name: str | None
    route: str
    model: str | None
    slots: int | None
    images_in_work: int
    images_per_second: float
    state: str
    since: datetime
    seen_at: datetime
    labels: Mapping[str, str]
    memory_bytes: int | None
    """The memory that it has for models; None on a CPU, and before its first shift."""
    pinned_as: str | None
    """The name by which an operator pinned it to `pinned_job_id` or `pinned_model`; else None."""
    pinned_job_id: int | None
    pinned_model: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lately:
    """What a worker finished: how many images in the last minute, and what it rendered last."""

    images: int
    model: str
    slots: int | None
    device_name: str | None


GONE_SECONDS = 86_400.0
"""How long worker processes are remembered that are lost or have stopped."""

MOST_GONE = 1000
"""At most so many of them are listed, the newest ones."""


def list_fleet(session: Session, *, gone: bool = False) -> list[FleetWorker]:
    """Every worker process that is alive, by host and name.

    With `gone` also those that were lost or stopped within the last day.
    """
    at = session.scalars(select(now())).one()
    live = (Shift.worker_id == Worker.id) & Shift.ended_at.is_(None) & (Shift.lease_until > now())
    listed = alive() | Worker.id.in_(_gone()) if gone else alive()
    rows = session.execute(
        select(Worker, Shift.id, Shift.started_at, lost())
        .outerjoin(Shift, live)
        .where(listed)
        .order_by(Worker.host, Worker.name, Worker.id)
    ).all()
    held = _held(session, [row[1] for row in rows if row[1] is not None])
    since, lately = _lately(session, at)
    found = []
    for worker, shift_id, shift_started, silent in rows:
        model, images = held.get(shift_id, (None, 0))
        last = lately.get(worker.id)
        state = _state(worker, working=shift_id is not None, silent=bool(silent))
        seconds = (at - max(since, worker.started_at)).total_seconds()
        found.append(
            FleetWorker(
                name=worker.name,
                host=worker.host,
                pid=worker.pid,
                device=worker.device,
                device_name=last.device_name if last else None,
                route=worker.route,
                model=model or (last.model if last else None),
                slots=last.slots if last else None,
                images_in_work=images,
                images_per_second=last.images / max(seconds, 1.0) if last else 0.0,
                state=state,
                since=_since(worker, state) or shift_started or worker.started_at,
                seen_at=worker.seen_at,
                labels=dict(labels_of(worker.labels)),
                memory_bytes=worker.memory_bytes,
                pinned_as=worker.pinned_as,
                pinned_job_id=worker.pinned_job_id,
                pinned_model=worker.pinned_model,
            )
        )
    return found


def order_drain(session: Session, name: str, *, draining: bool) -> list[str]:
    """Tell live workers to drain, or to take work again; the names of their processes.

    `name` is as for `find_alive`, which raises `UsageError` if no live worker has it.
    """
    chosen = find_alive(session, name)
    session.execute(update(Worker).where(Worker.id.in_(list(chosen))).values(draining=draining))
    return sorted(chosen.values())


def _gone() -> Select[int]:
    """The newest processes that are not alive any more and were seen within `GONE_SECONDS`."""
    seen = Worker.seen_at > seconds_from_now(-GONE_SECONDS)
    return select(Worker.id).where(~alive(), seen).order_by(Worker.id.desc()).limit(MOST_GONE)


def _since(worker: Worker, state: str) -> datetime | None:
    """When a process that is gone was last there."""
    return worker.stopped_at or (worker.seen_at if state == "lost" else None)


def _state(worker: Worker, *, working: bool, silent: bool) -> str:
    if worker.stopped_at is not None:
        return "stopped"
    if silent:
        return "lost"
    if worker.draining:
        return "drains" if working else "drained"
    return "renders" if working else "waits"


def _held(session: Session, shift_ids: list[int]) -> dict[int | None, tuple[str | None, int]]:
    """The model and the number of the images that each shift holds."""
    rows = session.execute(
        select(Image.shift_id, func.min(Image.model), func.count())
        .where(in_state(ImageState.LEASED), Image.shift_id.in_(shift_ids))
        .group_by(Image.shift_id)
    )
    return {shift_id: (model, images) for shift_id, model, images in rows}


def _lately(session: Session, at: datetime) -> tuple[datetime, dict[int, _Lately]]:
    """What each worker finished, from the newest events of all; it reads no more than those.

    The first value is since when that is known: a minute before `at`, or later where more events
    than are read came within the minute.
    """
    newest = (
        select(Attempt.id, Attempt.shift_id, Attempt.event, Attempt.at)
        .order_by(Attempt.id.desc())
        .limit(RATE_EVENTS)
        .subquery()
    )
    oldest, read = session.execute(select(func.min(newest.c.at), func.count())).one()
    since = at - timedelta(seconds=RATE_SECONDS)
    if read == RATE_EVENTS:
        since = max(since, oldest)
    within = case((newest.c.at > seconds_from_now(-RATE_SECONDS), 1), else_=0)
    counts = session.execute(
        select(Shift.worker_id, func.sum(within), func.max(newest.c.id))
        .join(newest, newest.c.shift_id == Shift.id)
        .where(newest.c.event == "done")
        .group_by(Shift.worker_id)
    ).all()
    rows = session.execute(
        select(Attempt.id, Image.model, Environment.document)
        .join(Image, Image.id == Attempt.image_id)
        .join(Object, Object.id == Image.object_id)
        .join(Environment, Environment.id == Object.environment_id)
        .where(Attempt.id.in_([last for _, _, last in counts]))
    )
    about = {attempt_id: (model, document) for attempt_id, model, document in rows}
    return since, {
        worker_id: _Lately(
            images=int(images),
            model=about[last][0],
            slots=(about[last][1].get("shapes") or {}).get("slots"),
            device_name=about[last][1].get("device_name"),
        )
        for worker_id, images, last in counts
        if last in about
    }

"""Requests over HTTP: recorded, loaded as a job, ended. Their states are those of `ApiState`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.queries.bulk import insert_new
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.states import ApiState, ImageState, JobState
from imagemill.db.tables import ApiRequest, Image, Job, Object, Row, Tally

IMAGES = "images"
BATCH = "batch"

ENDED = (ApiState.FAILED, ApiState.COMPLETED, ApiState.CANCELLED, ApiState.EXPIRED)
_LIVE_JOB = (JobState.LOADING, JobState.OPEN, JobState.PAUSED)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRequest:
    """What to record. `seconds` is how long a batch may take; None: as long as it needs."""

    id: str
    kind: str
    owner: str
    idempotency_key: str | None
    fingerprint: str
    images: int
    seed: int
    document: Mapping[str, Any]
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A recorded request, as of one moment."""

    id: str
    kind: str
    owner: str
    fingerprint: str
    images: int
    seed: int
    document: dict[str, Any]
    state: ApiState
    job_id: int | None
    refused: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    counts: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None
    loaded_at: datetime | None
    cancelling_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """An owner's images: those asked for today (UTC), and those that are not finished yet."""

    today: int
    open: int
    seconds_to_midnight: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LineCounts:
    """A batch's lines that can be rendered: all, those that are done, those with a dead image."""

    total: int
    completed: int
    failed: int


def record(session: Session, new: NewRequest) -> Request | None:
    """Record a request; None if its owner has used this idempotency key already."""
    values: dict[str, Any] = {
        "id": new.id,
        "kind": new.kind,
        "owner": new.owner,
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "images": new.images,
        "seed": new.seed,
        "document": dict(new.document),
        "state": ApiState.VALIDATING,
        "refused": [],
        "errors": [],
        "counts": {},
        "expires_at": None if new.seconds is None else seconds_from_now(new.seconds),
    }
    session.execute(insert_new(session, ApiRequest, values))
    found = session.get(ApiRequest, new.id)
    return None if found is None else _report(found)


def find_repeated(session: Session, owner: str, idempotency_key: str) -> Request | None:
    """The owner's request with this idempotency key; None if there is none."""
    query = select(ApiRequest).where(
        ApiRequest.owner == owner, ApiRequest.idempotency_key == idempotency_key
    )
    found = session.scalars(query).first()
    return None if found is None else _report(found)


def find_request(
    session: Session, request_id: str, *, owner: str | None = None, kind: str | None = None
) -> Request | None:
    """A request by its id; with an owner, only of that owner."""
    found = session.get(ApiRequest, request_id)
    if found is None or owner not in (None, found.owner) or kind not in (None, found.kind):
        return None
    return _report(found)


def list_batches(
    session: Session, *, owner: str | None, limit: int, after: str | None
) -> list[Request]:
    """Batches, newest first, from behind the one with the id `after`."""
    query = (
        select(ApiRequest)
        .where(ApiRequest.kind == BATCH)
        .order_by(ApiRequest.created_at.desc(), ApiRequest.id.desc())
        .limit(limit)
    )
    if owner is not None:
        query = query.where(ApiRequest.owner == owner)
    last = None if after is None else session.get(ApiRequest, after)
    if last is not None:
        older = (ApiRequest.created_at < last.created_at) | (
            (ApiRequest.created_at == last.created_at) & (ApiRequest.id < last.id)
        )
        query = query.where(older)
    return [_report(each) for each in session.scalars(query)]


def in_states(session: Session, states: Collection[ApiState], *, limit: int) -> list[Request]:
    """Requests in these states, in no order that anybody may rely on."""
    query = (
        select(ApiRequest)
        .where(ApiRequest.state.in_(list(states)))
        .order_by(ApiRequest.created_at)
        .limit(limit)
    )
    return [_report(each) for each in session.scalars(query)]


def waits_for_file(session: Session, file_id: str) -> bool:
    """Whether a batch that is not loaded yet reads this file."""
    waiting = in_states(session, (ApiState.VALIDATING,), limit=10_000)
    return any(each.document.get("input_file_id") == file_id for each in waiting)


def set_loaded(
    session: Session, request_id: str, job_id: int, *, refused: Sequence[Mapping[str, Any]]
) -> bool:
    """Record which job renders a request; False if the request was not waiting for one."""
    values = {
        "job_id": job_id,
        "refused": [dict(each) for each in refused],
        "document": _kept_document(session, request_id),
        "loaded_at": now(),
    }
    return _move(session, request_id, (ApiState.VALIDATING,), ApiState.IN_PROGRESS, **values)


def set_failed(session: Session, request_id: str, errors: Sequence[Mapping[str, Any]]) -> bool:
    """Record why nothing of a request can be rendered; False if it was not waiting."""
    values = {"errors": [dict(each) for each in errors], "ended_at": now()}
    return _move(session, request_id, (ApiState.VALIDATING,), ApiState.FAILED, **values)


def set_refused(session: Session, request_id: str, refused: Sequence[Mapping[str, Any]]) -> bool:
    """End a batch of which every line was refused: it is completed, and all of it failed."""
    lines = len(refused)
    values = {
        "refused": [dict(each) for each in refused],
        "counts": {"total": lines, "completed": 0, "failed": lines},
        "loaded_at": now(),
        "ended_at": now(),
    }
    return _move(session, request_id, (ApiState.VALIDATING,), ApiState.COMPLETED, **values)


def cancel_request(session: Session, request_id: str) -> bool:
    """Cancel a request and its job; False if it was over."""
    # Whoever is loading its job finds the request ended, and cancels the job.
    values = {"cancelling_at": now(), "ended_at": now()}
    if _move(session, request_id, (ApiState.VALIDATING,), ApiState.CANCELLED, **values):
        return True
    moved = _move(
        session,
        request_id,
        (ApiState.IN_PROGRESS,),
        ApiState.CANCELLING,
        cancelling_at=now(),
    )
    job_id = session.scalar(select(ApiRequest.job_id).where(ApiRequest.id == request_id))
    if moved and job_id is not None:
        lifecycle.cancel(session, job_id)
    return moved


def expire_requests(session: Session) -> int:
    """Cancel what is left of batches whose time is over; return how many batches."""
    late = session.execute(
        update(ApiRequest)
        .where(
            ApiRequest.state == ApiState.IN_PROGRESS,
            ApiRequest.expires_at.is_not(None),
            ApiRequest.expires_at <= now(),
            ApiRequest.cancelling_at.is_(None),
        )
        .values(cancelling_at=now())
        .returning(ApiRequest.job_id)
    ).all()
    for (job_id,) in late:
        if job_id is not None:
            lifecycle.cancel(session, job_id)
    return len(late)


def end_request(session: Session, request_id: str, *, counts: Mapping[str, Any]) -> bool:
    """End a request of which nothing is pending any more.

    Whether it is completed, cancelled or expired is decided here: it may have been cancelled since
    its caller has read it.
    """
    asked = session.execute(
        select(ApiRequest.state, ApiRequest.cancelling_at)
        .where(ApiRequest.id == request_id)
        .with_for_update()
    ).first()
    target = ApiState.COMPLETED
    if asked is not None and asked.cancelling_at is not None:
        target = ApiState.CANCELLED if asked.state == ApiState.CANCELLING else ApiState.EXPIRED
    sources = (ApiState.IN_PROGRESS, ApiState.CANCELLING)
    return _move(session, request_id, sources, target, counts=dict(counts), ended_at=now())


def count_lines(session: Session, job_id: int) -> LineCounts:
    """The rows of a batch's job: how many there are, are done, and have failed."""
    of_row = (
        select(
            func.sum(case((Image.state == ImageState.DONE, 0), else_=1)).label("left"),
            func.sum(case((Image.state == ImageState.DEAD, 1), else_=0)).label("dead"),
        )
        .where(Image.job_id == job_id)
        .group_by(Image.row_id)
        .subquery()
    )
    total, completed, failed = session.execute(
        select(
            func.count(),
            func.sum(case((of_row.c.left == 0, 1), else_=0)),
            func.sum(case((of_row.c.dead > 0, 1), else_=0)),
        ).select_from(of_row)
    ).one()
    return LineCounts(total=total, completed=int(completed or 0), failed=int(failed or 0))


def refused_rows(session: Session, job_id: int) -> list[tuple[int, str]]:
    """The number of each bad row of a job, and what is wrong with it."""
    query = (
        select(Row.number, Row.problem)
        .where(Row.job_id == job_id, Row.problem.is_not(None))
        .order_by(Row.number)
    )
    return [(number, problem or "") for number, problem in session.execute(query)]


def sizes_of(session: Session, image_ids: Collection[int]) -> dict[int, int]:
    """The bytes of each done image's file."""
    query = (
        select(Image.id, Object.size_bytes)
        .join(Object, Object.id == Image.object_id)
        .where(Image.id.in_(list(image_ids)))
    )
    return {row.id: row.size_bytes for row in session.execute(query)}


def usage_of(session: Session, owner: str) -> Usage:
    """An owner's usage, by the database's clock."""
    moment = session.execute(select(now())).scalar_one()
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    today = session.scalar(
        select(func.coalesce(func.sum(ApiRequest.images), 0)).where(
            ApiRequest.owner == owner,
            ApiRequest.created_at >= midnight,
            ApiRequest.state != ApiState.FAILED,
        )
    )
    recorded = session.scalar(
        select(func.coalesce(func.sum(ApiRequest.images), 0)).where(
            ApiRequest.owner == owner, ApiRequest.state == ApiState.VALIDATING
        )
    )
    rendering = session.scalar(
        select(func.coalesce(func.sum(Tally.delta), 0))
        .join(Job, Job.id == Tally.job_id)
        .join(ApiRequest, ApiRequest.job_id == Job.id)
        .where(
            ApiRequest.owner == owner,
            Job.state.in_(_LIVE_JOB),
            Tally.state.in_((ImageState.READY, ImageState.LEASED)),
        )
    )
    to_midnight = midnight + timedelta(days=1) - moment
    return Usage(
        today=int(today or 0),
        open=int(recorded or 0) + int(rendering or 0),
        seconds_to_midnight=int(to_midnight.total_seconds()) + 1,
    )


def backlog_of(session: Session, route: str) -> int:
    """How many images are ready in open jobs of a route, whoever asked for them."""
    query = (
        select(func.coalesce(func.sum(Tally.delta), 0))
        .join(Job, Job.id == Tally.job_id)
        .where(
            Job.state.in_((JobState.LOADING, JobState.OPEN)),
            Job.route == route,
            Tally.state == ImageState.READY,
        )
    )
    return int(session.scalar(query) or 0)


def _kept_document(session: Session, request_id: str) -> dict[str, Any]:
    """The document without its row: once a job is loaded, the job alone keeps the prompt."""
    document = dict(session.get_one(ApiRequest, request_id).document)
    document.pop("row", None)
    return document


def _move(
    session: Session,
    request_id: str,
    sources: Collection[ApiState],
    target: ApiState,
    **values: Any,
) -> bool:
    moved = session.execute(
        update(ApiRequest)
        .where(ApiRequest.id == request_id, ApiRequest.state.in_(list(sources)))
        .values(state=target, **values)
        .returning(ApiRequest.id)
    )
    return moved.first() is not None


def _report(found: ApiRequest) -> Request:
    return Request(
        id=found.id,
        kind=found.kind,
        owner=found.owner,
        fingerprint=found.fingerprint,
        images=found.images,
        seed=found.seed,
        document=found.document,
        state=ApiState(found.state),
        job_id=found.job_id,
        refused=found.refused,
        errors=found.errors,
        counts=found.counts,
        created_at=found.created_at,
        expires_at=found.expires_at,
        loaded_at=found.loaded_at,
        cancelling_at=found.cancelling_at,
        ended_at=found.ended_at,
    )

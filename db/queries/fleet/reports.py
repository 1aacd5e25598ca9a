"""What people ask about jobs and workers. Reads only; nothing here is on a hot path."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, not_, or_, select
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.documents import JSON
from imagemill.db.labels import has_all, labels_of
from imagemill.db.queries.images import flawed, in_state, of_row
from imagemill.db.queries.jobs.lifecycle import over, shown_state
from imagemill.db.queries.labels import find_labels, find_notes, has_labels
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.queries.work.presence import alive, lost, working
from imagemill.db.states import ImageState, JobState, Outcome
from imagemill.db.tables import Attempt, Group, Image, Job, Model, Row, Tally, Worker

UNFINISHED = (JobState.LOADING, JobState.OPEN, JobState.PAUSED)
"""Jobs that may still bring images."""

RATE_SECONDS = 60.0
"""The window over which images/s are counted."""

SLOW_RATE_SECONDS = 3600.0
"""The window for a job that finishes an image in more than half a minute."""

ONE_BATCH_SECONDS = 1.0
"""Images that become done so soon after the first one were rendered together with it."""

RATE_EVENTS = 10_000
"""How many of the newest events are read for it. If they begin later, so does the window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobReport:
    """A job with its exact counts.

    `images_per_second` and `eta_seconds` are None until images became done after the first ones.
    """

    id: int = field(metadata={JSON: "job_id"})
    name: str = field(metadata={JSON: "job_name"})
    state: str
    priority: int
    owner: str
    weight: int
    max_workers: int | None
    needs: Mapping[str, str]
    deadline_at: datetime | None
    route: str
    seed: int
    manifest: str
    rows_loaded: int
    bad_rows: int
    message: str | None
    created_at: datetime
    opened_at: datetime | None
    finished_at: datetime | None
    requested: int
    counts: Counts
    images_per_second: float | None = None
    eta_seconds: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReport:
    """A job's images that may share a forward pass."""

    model: str
    width: int
    height: int
    guided: bool
    counts: Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeReport:
    """How many of a job's images died of one code, with one of their messages."""

    code: str
    images: int
    message: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingImages:
    """Ready images that failed and wait for their retry; `seconds` until the first one is due."""

    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRowReport:
    """A manifest row that asked for nothing that could be rendered."""

    number: int = field(metadata={JSON: "row_number"})
    line: int
    problem: str
    verbatim: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReport:
    """A worker child that is alive, and whether it holds a live lease.

    `lost`: it gives no more signs of life, and will soon not count as alive.
    """

    name: str = field(metadata={JSON: "worker"})
    host: str
    pid: int
    device: str
    route: str
    labels: Mapping[str, str]
    draining: bool
    working: bool
    lost: bool
    started_at: datetime
    seen_at: datetime


def list_jobs(
    session: Session,
    *,
    states: Collection[JobState] = (),
    labels: Collection[tuple[str, str | None]] = (),
    limit: int = 50,
    before: int | None = None,
) -> list[JobReport]:
    """Jobs in these states, newest first, with ids below `before`.

    If no state is named, all but rejected ones: nothing is left of those but why. They have all of
    the `labels`; a value of None is any. An open job with nothing left to render counts as
    finished.
    """
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if states:
        wanted = and_(Job.state.in_(list(states)), not_(over()))
        query = query.where(or_(wanted, over()) if JobState.FINISHED in states else wanted)
    else:
        query = query.where(Job.state != JobState.REJECTED)
    if labels:
        query = query.where(has_labels(labels))
    if before is not None:
        query = query.where(Job.id < before)
    return report_jobs(session, session.scalars(query).all())


def report_jobs(session: Session, jobs: Sequence[Job]) -> list[JobReport]:
    """These jobs with counts, rate and remaining time."""
    ids = [job.id for job in jobs]
    counts = count_images(session, ids)
    at_work = [job.id for job in jobs if shown_state(job, counts[job.id]) in UNFINISHED]
    rates = rendering_rates(session, at_work)
    labels, notes = find_labels(session, ids), find_notes(session, ids)
    return [
        replace(
            _job_report(job, counts[job.id], rates.get(job.id)),
            labels=labels.get(job.id, {}),
            note=notes.get(job.id),
        )
        for job in jobs
    ]


def rendering_rates(session: Session, job_ids: Collection[int]) -> dict[int, float]:
    """Images per second that became done over the last minute, by job.

    Loading a model does not count as rendering. So if a job's first image became done within the
    window, the time counts from that image on, and neither it nor the images that were rendered
    together with it count. A job without a later image has no rate.
    """
    if not job_ids:
        return {}
    newest = (
        select(Attempt.image_id, Attempt.event, Attempt.at)
        .order_by(Attempt.id.desc())
        .limit(RATE_EVENTS)
        .subquery()
    )
    at, oldest, looked_at = session.execute(
        select(now(), func.min(newest.c.at), func.count(newest.c.at))
    ).one()
    rows = session.execute(
        select(Image.job_id, newest.c.at)
        .join(newest, newest.c.image_id == Image.id)
        .where(newest.c.event == "done", Image.job_id.in_(list(job_ids)))
        .order_by(newest.c.at)
    )
    finished: dict[int, list[datetime]] = {}
    for job_id, moment in rows:
        finished.setdefault(job_id, []).append(moment)
    horizon = oldest if looked_at == RATE_EVENTS else None
    found = {job_id: _rate(moments, at, horizon) for job_id, moments in finished.items()}
    return {job_id: rate for job_id, rate in found.items() if rate is not None}


def _rate(moments: Sequence[datetime], at: datetime, horizon: datetime | None) -> float | None:
    """Images per second from the moments at which images became done, the oldest first.

    Nothing is known of the time before `horizon`.
    """
    for reach, least in ((RATE_SECONDS, 2), (SLOW_RATE_SECONDS, 1)):
        window = timedelta(seconds=reach)
        since = at - window
        cut = horizon is not None and horizon > since
        if cut and horizon is not None:
            since = horizon
        lately = [moment for moment in moments if moment > since]
        if cut or any(since - window < moment <= since for moment in moments):
            begun, counted = since, len(lately)
        elif lately:
            begun = lately[0]
            together = begun + timedelta(seconds=ONE_BATCH_SECONDS)
            counted = sum(moment > together for moment in lately)
        else:
            continue
        if counted >= least:
            return counted / max((at - begun).total_seconds(), ONE_BATCH_SECONDS)
    return None


def count_outcomes(session: Session, job_id: int) -> dict[str, int]:
    """How many of a job's done images have each outcome, `ok` first.

    It reads only the images that are not ok, by their index. The others are what is left of the
    tallies.
    """
    rows = session.execute(
        select(Image.outcome, func.count())
        .where(Image.job_id == job_id, flawed())
        .group_by(Image.outcome)
        .order_by(Image.outcome)
    )
    counts = {outcome or "": count for outcome, count in rows}
    ok = count_images(session, [job_id])[job_id].done - sum(counts.values())
    return {Outcome.OK.value: ok, **counts} if ok else counts


def list_groups(session: Session, job_id: int) -> list[GroupReport]:
    """A job's groups, those with the most images first."""
    rows = session.execute(
        select(Group.id, Model.name, Group.document, Tally.state, func.sum(Tally.delta))
        .join(Tally, Tally.group_id == Group.id)
        .join(Model, Model.id == Group.model_id)
        .where(Tally.job_id == job_id)
        .group_by(Group.id, Model.name, Tally.state)
        .order_by(Group.id)
    )
    about: dict[int, tuple[str, Mapping[str, Any]]] = {}
    states: dict[int, dict[str, int]] = {}
    for group_id, model, document, state, total in rows:
        about[group_id] = (model, document)
        states.setdefault(group_id, {})[state] = int(total)
    groups = [
        GroupReport(
            model=model,
            width=document["width"],
            height=document["height"],
            guided=document["guided"],
            counts=Counts(**states[group_id]),
        )
        for group_id, (model, document) in about.items()
    ]
    return sorted(groups, key=lambda group: -group.counts.requested)


def count_dead(session: Session, job_id: int, *, key: str | None = None) -> list[CodeReport]:
    """A job's dead images by code, the most frequent first; with `key`, those of one row."""
    query = (
        select(Image.error_code, func.count(), func.min(Image.error_message))
        .where(Image.job_id == job_id, in_state(ImageState.DEAD))
        .group_by(Image.error_code)
        .order_by(func.count().desc(), Image.error_code)
    )
    if key is not None:
        query = query.join(Row, Row.id == Image.row_id).where(*of_row(job_id, key))
    rows = session.execute(query)
    return [CodeReport(code=code or "", images=count, message=text) for code, count, text in rows]


def count_waiting(session: Session, job_id: int) -> WaitingImages | None:
    """A job's images that wait for a retry; None if there are none. It reads only failed images."""
    first, images, at = session.execute(
        select(func.min(Image.not_before), func.count(), now()).where(
            Image.job_id == job_id,
            Image.error_code.is_not(None),
            in_state(ImageState.READY),
            Image.not_before > now(),
        )
    ).one()
    return (
        None
        if first is None
        else WaitingImages(images=images, seconds=(first - at).total_seconds())
    )


def list_bad_rows(
    session: Session, job_id: int, *, limit: int, after: int | None = None
) -> list[BadRowReport]:
    """A job's bad rows by number, from the one after `after`."""
    query = select(Row.number, Row.line, Row.problem, Row.verbatim).where(
        Row.job_id == job_id, Row.problem.is_not(None), Row.number > (after or 0)
    )
    rows = session.execute(query.order_by(Row.number).limit(limit))
    return [
        BadRowReport(number=number, line=line, problem=problem or "", verbatim=verbatim)
        for number, line, problem, verbatim in rows
    ]


def list_workers(session: Session) -> list[WorkerReport]:
    """Worker children that are alive: seen lately, or with a live lease."""
    rows = session.execute(
        select(Worker, working(), lost())
        .where(alive())
        .order_by(Worker.host, Worker.name, Worker.id)
    )
    return [
        WorkerReport(
            name=worker.name,
            host=worker.host,
            pid=worker.pid,
            device=worker.device,
            route=worker.route,
            labels=dict(labels_of(worker.labels)),
            draining=worker.draining,
            working=bool(busy),
            lost=bool(silent),
            started_at=worker.started_at,
            seen_at=worker.seen_at,
        )
        for worker, busy, silent in rows
    ]


def is_served(session: Session, route: str, needs: Mapping[str, str]) -> bool:
    """Whether a worker that is alive and not draining takes this route, and has these labels."""
    return any(serves(each, route, needs) for each in list_workers(session))


def serves(worker: WorkerReport, route: str, needs: Mapping[str, str]) -> bool:
    """Whether a worker takes a route's jobs that need these labels, and is not draining."""
    return worker.route == route and not worker.draining and has_all(worker.labels, needs)


def _job_report(job: Job, counts: Counts, rate: float | None) -> JobReport:
    return JobReport(
        id=job.id,
        name=job.name,
        state=shown_state(job, counts),
        priority=job.priority,
        owner=job.owner,
        weight=job.weight,
        max_workers=job.max_workers,
        needs=dict(labels_of(job.needs)),
        deadline_at=job.deadline_at,
        route=job.route,
        seed=job.seed,
        manifest=job.manifest,
        rows_loaded=job.rows_loaded,
        bad_rows=job.bad_rows,
        message=job.message,
        created_at=job.created_at,
        opened_at=job.opened_at,
        finished_at=job.finished_at,
        requested=counts.requested,
        counts=counts,
        images_per_second=rate,
        eta_seconds=counts.pending / rate if rate and counts.pending else None,
    )

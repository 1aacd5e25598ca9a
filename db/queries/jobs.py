"""Jobs: loading them in chunks, opening, stopping, retrying, finishing, finding."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, exists, func, insert, select, update
from sqlalchemy.orm import Session

from db.clock import now
from db.errors import UnknownJob, UsageError
from db.queries.claims import record_events, spec_values
from db.queries.objects import find_objects, insert_new
from db.queries.tallies import add_images, move_images
from db.seeds import row_key
from db.specs import ImageSpec
from db.states import ImageState, JobState
from db.tables import Group, Image, Job, Model, Row, Tally

LIVE = (JobState.LOADING, JobState.OPEN, JobState.PAUSED, JobState.FINISHED)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """What a submission says about a job. `identity` is equal for equal submissions."""

    name: str
    identity: str
    manifest: str
    manifest_sha256: str
    defaults: Mapping[str, Any]
    seed: int = 0
    priority: int = 0
    route: str = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRow:
    """A manifest row to insert. A bad one has a `problem`, and neither key nor images."""

    number: int
    line: int
    verbatim: str
    extras: Mapping[str, Any]
    key_base: str | None
    template: str | None = None
    problem: str | None = None


def find_or_create(session: Session, new: NewJob) -> tuple[Job, bool]:
    """The live job of this identity, and whether this call created it (in `loading`)."""
    live = select(Job).where(Job.identity == new.identity, Job.state.in_(LIVE))
    job = session.scalars(live).first()
    if job is not None:
        return job, False
    job = Job(
        name=new.name,
        identity=new.identity,
        manifest=new.manifest,
        manifest_sha256=new.manifest_sha256,
        defaults=dict(new.defaults),
        seed=new.seed,
        priority=new.priority,
        route=new.route,
    )
    session.add(job)
    session.flush()
    return job, True


def lock_loading(session: Session, job_id: int) -> Job:
    """The job, locked against other producers; a `UsageError` if it is not loading any more."""
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one()
    if job.state != JobState.LOADING:
        raise UsageError(f"job {job_id} is {job.state}: another submit has finished loading it")
    return job


def count_key_bases(session: Session, job_id: int, bases: Collection[str]) -> Counter[str]:
    """How many rows of the job have each of these key bases already."""
    rows = session.execute(
        select(Row.key_base, func.count())
        .where(Row.job_id == job_id, Row.key_base.in_(list(bases)))
        .group_by(Row.key_base)
    )
    return Counter({base: count for base, count in rows if base is not None})


def insert_rows(
    session: Session, job: Job, rows: Sequence[NewRow], occurrences: Sequence[int]
) -> list[int]:
    """Insert manifest rows, each with the occurrence of its key base; their ids, in order."""
    if not rows:
        return []
    values = [
        {
            "job_id": job.id,
            "number": row.number,
            "line": row.line,
            "key_base": row.key_base,
            "key_occurrence": occurrence,
            "verbatim": row.verbatim,
            "extras": dict(row.extras),
            "template": row.template,
            "problem": row.problem,
        }
        for row, occurrence in zip(rows, occurrences, strict=True)
    ]
    ids = session.scalars(insert(Row).returning(Row.id, sort_by_parameter_order=True), values)
    return list(ids)


def insert_images(
    session: Session, job: Job, images: Sequence[tuple[int, int, ImageSpec]]
) -> Counter[ImageState]:
    """Insert images given as (row id, sample index, spec); how many ready, how many done.

    An image whose request has an object already is done at once.
    """
    keys = [spec.request_key() for _, _, spec in images]
    objects = find_objects(session, keys)
    groups = _group_ids(session, [spec for _, _, spec in images])
    added: Counter[tuple[int, int, ImageState]] = Counter()
    values = []
    for key, (row_id, sample_index, spec) in zip(keys, images, strict=True):
        state = ImageState.DONE if key in objects else ImageState.READY
        group_id = groups[spec.group_key()]
        added[job.id, group_id, state] += 1
        values.append(
            {
                **spec_values(spec),
                "job_id": job.id,
                "row_id": row_id,
                "sample_index": sample_index,
                "group_id": group_id,
                "request_key": key,
                "state": state,
                "object_id": objects.get(key),
            }
        )
    if values:
        session.execute(insert(Image), values)
    add_images(session, added)
    states: Counter[ImageState] = Counter()
    for (_, _, state), count in added.items():
        states[state] += count
    return states


def register_model(
    session: Session, *, name: str, weights_digest: str, source: str, document: dict[str, Any]
) -> int:
    """The id of a model, recorded once per weights digest."""
    values = {
        "name": name,
        "weights_digest": weights_digest,
        "source": source,
        "document": document,
    }
    session.execute(insert_new(session, Model, values, key="weights_digest"))
    return session.scalars(select(Model.id).where(Model.weights_digest == weights_digest)).one()


def open_job(session: Session, job_id: int) -> bool:
    """Make a loaded job's images claimable; False if it was not loading."""
    return _move_job(
        session, job_id, sources=(JobState.LOADING,), target=JobState.OPEN, opened_at=now()
    )


def reject(session: Session, job_id: int, *, message: str) -> bool:
    """Mark a loading job rejected and drop what was loaded of it."""
    if not _move_job(
        session, job_id, sources=(JobState.LOADING,), target=JobState.REJECTED, message=message
    ):
        return False
    for table in (Image, Row, Tally):
        session.execute(delete(table).where(table.job_id == job_id))
    return True


def pause(session: Session, job_id: int) -> bool:
    """Stop claiming a job's images; workers give back what they hold within a heartbeat."""
    return _move_job(session, job_id, sources=(JobState.OPEN,), target=JobState.PAUSED)


def resume(session: Session, job_id: int) -> bool:
    """Let a paused job's images be claimed again."""
    return _move_job(session, job_id, sources=(JobState.PAUSED,), target=JobState.OPEN)


def cancel(session: Session, job_id: int) -> bool:
    """Cancel a job: its ready images at once, leased ones when their shift lets go of them."""
    sources = (JobState.LOADING, JobState.OPEN, JobState.PAUSED)
    if not _move_job(
        session, job_id, sources=sources, target=JobState.CANCELLED, finished_at=now()
    ):
        return False
    cancel_stragglers(session, job_id)
    return True


def cancel_stragglers(session: Session, job_id: int | None = None) -> int:
    """Cancel ready images of cancelled jobs (of one, or of all); how many."""
    cancelled = exists().where(Job.id == Image.job_id, Job.state == JobState.CANCELLED)
    conditions = [Image.state == ImageState.READY, cancelled]
    if job_id is not None:
        conditions.append(Image.job_id == job_id)
    rows = session.execute(
        update(Image)
        .where(*conditions)
        .values(state=ImageState.CANCELLED)
        .returning(Image.id, Image.job_id, Image.group_id, Image.generation)
    ).all()
    places = [(row.job_id, row.group_id) for row in rows]
    move_images(session, places, source=ImageState.READY, target=ImageState.CANCELLED)
    events = [(row.id, row.generation) for row in rows]
    record_events(session, events, shift_id=None, event="cancelled")
    return len(rows)


def retry(session: Session, job_id: int, *, codes: Collection[str] = ()) -> int:
    """Make a job's dead images ready again, as a new generation; how many.

    With `codes`, only those that died of one of them. A finished job is open again.
    """
    conditions = [Image.job_id == job_id, Image.state == ImageState.DEAD]
    if codes:
        conditions.append(Image.error_code.in_(list(codes)))
    rows = session.execute(
        update(Image)
        .where(*conditions)
        .values(
            state=ImageState.READY,
            generation=Image.generation + 1,
            suspect=True,
            failures=0,
            not_before=None,
            error_code=None,
            error_message=None,
        )
        .returning(Image.id, Image.job_id, Image.group_id, Image.generation)
    ).all()
    places = [(row.job_id, row.group_id) for row in rows]
    move_images(session, places, source=ImageState.DEAD, target=ImageState.READY)
    events = [(row.id, row.generation) for row in rows]
    record_events(session, events, shift_id=None, event="retried")
    if rows:
        _move_job(
            session,
            job_id,
            sources=(JobState.FINISHED,),
            target=JobState.OPEN,
            finished_at=None,
        )
    return len(rows)


def finish_jobs(session: Session) -> int:
    """Finish every open job with no image ready or leased; how many."""
    pending = (
        select(func.coalesce(func.sum(Tally.delta), 0))
        .where(Tally.job_id == Job.id, Tally.state.in_((ImageState.READY, ImageState.LEASED)))
        .scalar_subquery()
    )
    rows = session.execute(
        update(Job)
        .where(Job.state == JobState.OPEN, pending == 0)
        .values(state=JobState.FINISHED, finished_at=now())
        .returning(Job.id)
    ).all()
    return len(rows)


def has_backlog(session: Session, *, route: str) -> bool:
    """Whether an open job on this route has ready images."""
    return ready_images(session).get(route, 0) > 0


def ready_images(session: Session) -> dict[str, int]:
    """How many images are ready in open jobs, by route."""
    rows = session.execute(
        select(Job.route, func.sum(Tally.delta))
        .join(Tally, Tally.job_id == Job.id)
        .where(Job.state == JobState.OPEN, Tally.state == ImageState.READY)
        .group_by(Job.route)
    )
    return {route: int(total) for route, total in rows if total}


def find_job(session: Session, reference: str) -> Job:
    """The job that an id, a name (its newest) or `latest` names; `UnknownJob` otherwise."""
    if reference == "latest":
        query = select(Job).order_by(Job.id.desc())
    elif reference.isdecimal():
        query = select(Job).where(Job.id == int(reference))
    else:
        query = select(Job).where(Job.name == reference).order_by(Job.id.desc())
    job = session.scalars(query.limit(1)).first()
    if job is None:
        raise UnknownJob(f"no job {reference!r}; `imagemill jobs` lists them")
    return job


def key_of(row: Row) -> str:
    """A stored row's key, which its seeds derive from."""
    return row_key(row.key_base or "", row.key_occurrence)


def _move_job(
    session: Session,
    job_id: int,
    *,
    sources: Collection[JobState],
    target: JobState,
    **values: Any,
) -> bool:
    moved = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(list(sources)))
        .values(state=target, **values)
        .returning(Job.id)
    )
    return moved.first() is not None


def _group_ids(session: Session, specs: Collection[ImageSpec]) -> dict[str, int]:
    wanted = {spec.group_key(): spec for spec in specs}
    found = dict(
        session.execute(select(Group.key, Group.id).where(Group.key.in_(list(wanted)))).tuples()
    )
    for key, spec in sorted(wanted.items()):
        if key in found:
            continue
        model_id = session.scalars(
            select(Model.id).where(Model.weights_digest == spec.weights_digest)
        ).one()
        values = {"key": key, "model_id": model_id, "document": spec.group()}
        session.execute(insert_new(session, Group, values, key="key"))
        found[key] = session.scalars(select(Group.id).where(Group.key == key)).one()
    return found

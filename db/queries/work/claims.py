"""Claiming images and moving them on: the statements that every shift makes."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.errors import first_line
from imagemill.db.queries.bulk import among_given, is_postgres, list_given
from imagemill.db.queries.images import (
    RELEASED,
    SPEC_COLUMNS,
    Failure,
    held_by,
    in_state,
    ready_unless_cancelled,
    record_release,
    release,
    spec_of,
    update_images,
)
from imagemill.db.queries.jobs.seats import jobs_with_room, take_seat
from imagemill.db.queries.tallies import move_images
from imagemill.db.queries.work.memory_needs import list_too_large
from imagemill.db.queries.work.scopes import ANY_WORKER, hold_with_scope, scope_of
from imagemill.db.queries.work.turns import Turns, WaitingJob, in_turn
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Group, Image, Job, Model, Tally

if TYPE_CHECKING:
    from imagemill.db.settings import Settings

_IMAGES_OF_A_WORKER = 16
"""About how many images one worker holds: the unit of the lots when a group is chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """An image that this shift holds now. A `solo` image must be rendered without neighbours.

    `problem` says why its row can't be read as a specification; `spec` then has only what stands
    in the columns.
    """

    id: int
    job_id: int
    group_id: int
    request_key: str
    solo: bool
    spec: ImageSpec
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupChoice:
    """A group with work: its id, key and document (`ImageSpec.group`), and the model's name."""

    id: int
    key: str
    model_name: str
    document: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """After how many failures an image is dead, and how long it waits before a retry.

    Only failures of an image that was rendered alone count. An error is the image's own fault, so
    `max_failures` may be small. A lost worker may have been killed by anybody, so `max_losses` is
    larger: otherwise innocent images would die where machines come and go. The first wait is
    `retry_seconds`; each further one is twice as long.
    """

    max_failures: int
    max_losses: int
    retry_seconds: float

    @classmethod
    def from_settings(cls, settings: "Settings") -> "RetryPolicy":
        """The policy that the settings set."""
        return cls(
            max_failures=settings.max_solo_failures,
            max_losses=settings.max_solo_losses,
            retry_seconds=settings.retry_seconds,
        )


def choose_group(
    session: Session,
    *,
    route: str,
    loaded: Collection[str] = (),
    avoided: Collection[int] = (),
    worker_id: int | None = None,
) -> GroupChoice | None:
    """The group that a shift should render next; None if nothing is ready on its route.

    The order is: the highest priority, then models that are loaded (by weights digest), then the
    turns of owners and jobs (`turns.py`). Groups in `avoided` are left out, because the caller has
    just found nothing to claim there. So is what this worker may not take, or has not the memory
    for.
    """
    scope = ANY_WORKER if worker_id is None else scope_of(session, worker_id)
    candidates = [
        candidate
        for candidate in _candidates(session, route, avoided)
        if scope.admits(candidate.job, candidate.model_name)
    ]
    if scope.card is not None:
        large = list_too_large(session, scope.card)
        candidates = [c for c in candidates if not {c.digest, c.group_key} & large]
    limited = {c.job.job_id for c in candidates if c.job.max_workers is not None}
    if limited:
        full = limited - jobs_with_room(session, limited, worker_id=worker_id)
        candidates = [c for c in candidates if c.job.job_id not in full]
    if not candidates:
        return None
    turns = Turns({c.job for c in candidates}, unit=_IMAGES_OF_A_WORKER, session=session)

    def place(candidate: _Candidate) -> tuple[int, bool, float, float, int]:
        priority, owner, job = turns.place(candidate.job.job_id)
        return priority, candidate.digest not in loaded, owner, job, candidate.group_id

    found = min(candidates, key=place)
    return _choice(session, found)


@dataclass(frozen=True, slots=True)
class _Candidate:
    job: WaitingJob
    group_id: int
    group_key: str
    model_name: str
    digest: str


_JOB = (Job.id, Job.priority, Job.owner, Job.weight, Job.max_workers, Job.needs)
"""What `WaitingJob` has of a job, in its order."""


def _candidates(session: Session, route: str, avoided: Collection[int]) -> Iterator[_Candidate]:
    """Every group with ready images of an open job on this route, once for each such job."""
    ready = (
        select(Tally.job_id, Tally.group_id)
        .where(Tally.state == ImageState.READY)
        .group_by(Tally.job_id, Tally.group_id)
        .having(func.sum(Tally.delta) > 0)
        .subquery()
    )
    rows = session.execute(
        select(Group.id, Group.key, Model.name, Model.weights_digest, *_JOB)
        .join_from(ready, Job, Job.id == ready.c.job_id)
        .join(Group, Group.id == ready.c.group_id)
        .join(Model, Model.id == Group.model_id)
        .where(
            Job.state == JobState.OPEN, Job.route == route, ready.c.group_id.not_in(list(avoided))
        )
    )
    for group_id, key, model_name, digest, *job in rows:
        yield _Candidate(WaitingJob(*job), group_id, key, model_name, digest)


def _choice(session: Session, found: _Candidate) -> GroupChoice:
    document = session.scalars(select(Group.document).where(Group.id == found.group_id)).one()
    # A JSON column may hold anything. A group whose document is no JSON object can't be opened.
    known = document if isinstance(document, dict) else {}
    return GroupChoice(
        id=found.group_id, key=found.group_key, model_name=found.model_name, document=known
    )


def claim(
    session: Session, *, shift_id: int, group_id: int, route: str, limit: int
) -> list[Claimed]:
    """Lease up to `limit` ready images of a group to this shift.

    Jobs come in their turns (`turns.py`). A suspect (an image that was in a forward pass that
    failed) comes alone, and after the other images of its job. A shift whose lease is over gets
    nothing, nor one whose worker may not take the job.
    """
    scope = hold_with_scope(session, shift_id)
    if scope is None:
        return []
    jobs, digest, model = _jobs_with_work(session, group_id=group_id, route=route)
    take = partial(_claim_from, session, shift_id=shift_id, group_id=group_id, digest=digest)
    admitted = [job for job in jobs if scope.admits(job, model)]
    images: list[Claimed] = []
    for job in in_turn(session, admitted, unit=limit):
        job_id = job.job_id
        if job.max_workers is not None and not take_seat(session, job_id=job_id, shift_id=shift_id):
            continue
        images += take(job_id=job_id, suspect=False, limit=limit - len(images))
        images = images or take(job_id=job_id, suspect=True, limit=1)
        if len(images) >= limit or (images and images[0].solo):
            break
    places = [(image.job_id, image.group_id) for image in images]
    move_images(session, places, source=ImageState.READY, target=ImageState.LEASED)
    return images


def begin(session: Session, *, shift_id: int, image_ids: Collection[int]) -> set[int]:
    """Record that rendering of these images begins; returns the ids that this shift still holds."""
    postgres = is_postgres(session)
    values = {"ids": list_given(postgres, image_ids), "shift": shift_id}
    return set(session.scalars(_begin(postgres), values))


@cache
def _begin(postgres: bool) -> Any:
    return (
        update_images()
        .where(among_given(postgres, Image.id, "ids"), held_by(bindparam("shift")))
        .values(begun_at=now())
        .returning(Image.id)
    )


def end_rendering(session: Session, *, shift_id: int, image_id: int) -> None:
    """Record that an image is rendered. If its worker is lost now, the image is not charged."""
    session.execute(
        update(Image)
        .where(Image.id == image_id, held_by(shift_id), Image.begun_at.is_not(None))
        .values(begun_at=None)
    )


def fail(
    session: Session, *, shift_id: int, image_id: int, failure: Failure, policy: RetryPolicy
) -> ImageState | None:
    """Charge a failure to an image; returns its new state, or None if the shift lost it meanwhile.

    A failure among neighbours only makes the image a suspect. It is dead after `max_failures`
    failures alone, or at once if a retry can't help.
    """
    charge = 1 if failure.solo else 0
    dead = or_(literal(not failure.retryable), Image.failures + charge >= policy.max_failures)
    row = session.execute(
        update(Image)
        .where(Image.id == image_id, held_by(shift_id))
        .values(
            state=case((dead, ImageState.DEAD), else_=ready_unless_cancelled()),
            shift_id=None,
            begun_at=None,
            suspect=True,
            failures=Image.failures + charge,
            not_before=seconds_from_now(policy.retry_seconds * _power_of_two(Image.failures)),
            error_code=failure.code,
            error_message=failure.message,
        )
        .returning(*RELEASED)
    ).first()
    if row is None:
        return None
    record_release(session, [row], shift_id=shift_id, event="failed", failure=failure)
    return ImageState(row.state)


def give_back(session: Session, *, shift_id: int, image_ids: Collection[int] | None = None) -> int:
    """Return this shift's images (all, or these) without a charge; how many there were."""
    which = held_by(shift_id)
    if image_ids is not None:
        which = and_(which, Image.id.in_(list(image_ids)))
    return release(session, which, shift_id=shift_id)


def _jobs_with_work(
    session: Session, *, group_id: int, route: str
) -> tuple[list[WaitingJob], str, str]:
    """The open jobs with ready images of a group; the digest and the name of the group's model.

    The last two are empty where there is no such job.
    """
    rows = session.execute(_WORK, {"group": group_id, "on_route": route}).all()
    digest, name = rows[0][-2:] if rows else ("", "")
    return [WaitingJob(*row[:-2]) for row in rows], digest, name


_WORK = (
    select(*_JOB, Model.weights_digest, Model.name)
    .join(Tally, Tally.job_id == Job.id)
    .join(Group, Group.id == Tally.group_id)
    .join(Model, Model.id == Group.model_id)
    .where(
        Tally.state == ImageState.READY,
        Tally.group_id == bindparam("group"),
        Job.state == JobState.OPEN,
        Job.route == bindparam("on_route"),
    )
    .group_by(*_JOB, Model.weights_digest, Model.name)
    .having(func.sum(Tally.delta) > 0)
)


def _claim_from(
    session: Session,
    *,
    shift_id: int,
    job_id: int,
    group_id: int,
    digest: str,
    suspect: bool,
    limit: int,
) -> list[Claimed]:
    values = {"job": job_id, "group": group_id, "at_most": limit, "shift": shift_id}
    rows = session.execute(_taking(suspect), values).all()
    return sorted((_claimed(row, digest) for row in rows), key=lambda image: image.id)


@cache
def _taking(suspect: bool) -> Any:
    """The statement that leases images of a job and group: suspects, or the others."""
    chosen = (
        select(Image.id)
        .where(
            Image.job_id == bindparam("job"),
            Image.group_id == bindparam("group"),
            in_state(ImageState.READY),
            Image.suspect.is_(suspect),
            or_(Image.not_before.is_(None), Image.not_before <= now()),
        )
        # The order begins with `not_before`, which only the partial index on ready images gives.
        # Ordered by the primary key alone, Postgres might instead walk that key, over millions of
        # done images, to the first ready one.
        .order_by(Image.not_before, Image.id)
        .limit(bindparam("at_most", type_=Integer))
        .with_for_update(skip_locked=True)
        .cte("chosen")
        .prefix_with("MATERIALIZED")
    )
    return (
        update_images()
        .where(Image.id.in_(select(chosen.c.id)))
        .values(state=ImageState.LEASED, shift_id=bindparam("shift"))
        .returning(
            Image.id,
            Image.job_id,
            Image.group_id,
            Image.request_key,
            Image.suspect,
            Image.options,
            *SPEC_COLUMNS,
        )
    )


def _claimed(row: Any, digest: str) -> Claimed:
    """The image in a claimed row. A row that can't be read must not stop the other images."""
    problem = None
    try:
        spec = spec_of(row, digest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
        columns = {column.key: getattr(row, column.key) for column in SPEC_COLUMNS}
        spec = ImageSpec(**columns, weights_digest=digest)
    return Claimed(
        id=row.id,
        job_id=row.job_id,
        group_id=row.group_id,
        request_key=row.request_key,
        solo=row.suspect,
        spec=spec,
        problem=problem,
    )


def _power_of_two(exponent: ColumnElement[int] | InstrumentedAttribute[int]) -> ColumnElement[int]:
    # Spelled out: not every SQLite has pow().
    return case(*((exponent == n, 2**n) for n in range(10)), else_=2**10)

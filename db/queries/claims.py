"""Claiming images and moving them on: the statements that every shift lives by."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.clock import now, seconds_from_now
from db.queries.tallies import move_images
from db.specs import ImageSpec
from db.states import ImageState, JobState
from db.tables import Attempt, Group, Image, Job, Model, Shift, Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """An image that this shift holds now. `solo` ones must be rendered with no neighbour."""

    id: int
    job_id: int
    group_id: int
    request_key: str
    generation: int
    solo: bool
    spec: ImageSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupChoice:
    """A group with work: its id and document (`ImageSpec.group`), and the model's name."""

    id: int
    model_name: str
    document: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an image was not rendered, and whether it was alone in the forward pass."""

    code: str
    message: str
    retryable: bool
    solo: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How many failures alone make an image dead; the first wait, which then doubles."""

    max_failures: int
    retry_seconds: float


SPEC_COLUMNS = (
    Image.model,
    Image.prompt,
    Image.negative_prompt,
    Image.seed,
    Image.width,
    Image.height,
    Image.steps,
    Image.guidance_scale,
    Image.sampler,
    Image.format,
)


def spec_values(spec: ImageSpec) -> dict[str, Any]:
    """A specification as values of the columns of `images`; `spec_of` reads it back."""
    document = spec.document()
    del document["weights_digest"]
    values = {column.key: document.pop(column.key, None) for column in SPEC_COLUMNS}
    values["negative_prompt"] = spec.negative_prompt
    values["format"] = spec.format
    return {**values, "options": document}


def spec_of(image: Any, weights_digest: str) -> ImageSpec:
    """The specification in the columns of a row of `images`."""
    values = {column.key: getattr(image, column.key) for column in SPEC_COLUMNS}
    return ImageSpec.from_document({**values, **image.options, "weights_digest": weights_digest})


def choose_group(
    session: Session, *, route: str, loaded: Collection[str] = (), busy: Collection[int] = ()
) -> GroupChoice | None:
    """The group that a shift should render next, None if nothing is ready on its route.

    Highest priority first, then models that are loaded (by weights digest), then the job with
    the fewest images in work, then the oldest. Groups in `busy` come last: the caller has just
    found nothing to claim there.
    """
    in_work = (
        select(Tally.job_id, func.sum(Tally.delta).label("leased"))
        .where(Tally.state == ImageState.LEASED)
        .group_by(Tally.job_id)
        .subquery()
    )
    ready = func.sum(Tally.delta)
    found = session.execute(
        select(Group.id, Model.name, Group.document)
        .join_from(Tally, Job, Job.id == Tally.job_id)
        .join(Group, Group.id == Tally.group_id)
        .join(Model, Model.id == Group.model_id)
        .outerjoin(in_work, in_work.c.job_id == Job.id)
        .where(
            Tally.state == ImageState.READY,
            Job.state == JobState.OPEN,
            Job.route == route,
            Group.id.not_in(list(busy)),
        )
        .group_by(
            Group.id, Model.name, Model.weights_digest, Job.id, Job.priority, in_work.c.leased
        )
        .having(ready > 0)
        .order_by(
            Job.priority.desc(),
            case((Model.weights_digest.in_(list(loaded)), 0), else_=1),
            func.coalesce(in_work.c.leased, 0),
            Job.id,
            Group.id,
        )
        .limit(1)
    ).first()
    if found is None:
        return None
    group_id, model_name, document = found
    return GroupChoice(id=group_id, model_name=model_name, document=document)


def claim(
    session: Session, *, shift_id: int, group_id: int, route: str, limit: int
) -> list[Claimed]:
    """Lease up to `limit` ready images of a group to this shift.

    Suspects (they were in a forward pass that failed) come one at a time, and only when nothing
    else is ready. Nothing is claimed by a shift whose lease is over.
    """
    for suspect in (False, True):
        images: list[Claimed] = []
        for job_id in _jobs_with_work(session, group_id=group_id, route=route):
            wanted = 1 if suspect else limit - len(images)
            images += _claim_from(
                session,
                shift_id=shift_id,
                job_id=job_id,
                group_id=group_id,
                suspect=suspect,
                limit=wanted,
            )
            if len(images) >= (1 if suspect else limit):
                break
        if images:
            places = [(image.job_id, image.group_id) for image in images]
            move_images(session, places, source=ImageState.READY, target=ImageState.LEASED)
            return images
    return []


def begin(session: Session, *, shift_id: int, image_ids: Collection[int]) -> set[int]:
    """Record that rendering of these images begins; the ids that are still this shift's."""
    return set(
        session.scalars(
            update(Image)
            .where(Image.id.in_(list(image_ids)), held_by(shift_id))
            .values(begun_at=now())
            .returning(Image.id)
        )
    )


def fail(
    session: Session, *, shift_id: int, image_id: int, failure: Failure, policy: RetryPolicy
) -> ImageState | None:
    """Charge a failure; the image's new state, or None if it was no longer this shift's.

    A failure among neighbours only makes it a suspect. After `max_failures` alone, or at once if
    a retry can't help, it is dead.
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
        .returning(Image.job_id, Image.group_id, Image.state, Image.generation)
    ).first()
    if row is None:
        return None
    state = ImageState(row.state)
    move_images(session, [(row.job_id, row.group_id)], source=ImageState.LEASED, target=state)
    record_events(
        session,
        [(image_id, row.generation)],
        shift_id=shift_id,
        event="dead" if state is ImageState.DEAD else "failed",
        failure=failure,
    )
    return state


def give_back(session: Session, *, shift_id: int, image_ids: Collection[int] | None = None) -> int:
    """Return this shift's images (all, or these), uncharged: drained, paused or not begun."""
    conditions = [Image.state == ImageState.LEASED, Image.shift_id == shift_id]
    if image_ids is not None:
        conditions.append(Image.id.in_(list(image_ids)))
    rows = session.execute(
        update(Image)
        .where(*conditions)
        .values(state=ready_unless_cancelled(), shift_id=None, begun_at=None)
        .returning(Image.job_id, Image.group_id, Image.state)
    ).all()
    for state in (ImageState.READY, ImageState.CANCELLED):
        places = [(row.job_id, row.group_id) for row in rows if row.state == state]
        move_images(session, places, source=ImageState.LEASED, target=state)
    return len(rows)


def held_by(shift_id: int) -> ColumnElement[bool]:
    """The fence: the image is leased by this shift, whose lease is still live."""
    live = exists().where(Shift.id == shift_id, Shift.ended_at.is_(None), Shift.lease_until > now())
    return and_(Image.state == ImageState.LEASED, Image.shift_id == shift_id, live)


def record_events(
    session: Session,
    images: Sequence[tuple[int, int]],
    *,
    shift_id: int | None,
    event: str,
    failure: Failure | None = None,
) -> None:
    """Append to the history of images, given as (id, generation)."""
    if not images:
        return
    values = {
        "shift_id": shift_id,
        "event": event,
        "solo": failure is not None and failure.solo,
        "code": failure and failure.code,
        "message": failure and failure.message,
    }
    session.execute(
        insert(Attempt),
        [
            {**values, "image_id": image_id, "generation": generation}
            for image_id, generation in images
        ],
    )


def _jobs_with_work(session: Session, *, group_id: int, route: str) -> list[int]:
    ready = func.sum(case((Tally.state == ImageState.READY, Tally.delta), else_=0))
    leased = func.sum(case((Tally.state == ImageState.LEASED, Tally.delta), else_=0))
    return list(
        session.scalars(
            select(Job.id)
            .join(Tally, Tally.job_id == Job.id)
            .where(Tally.group_id == group_id, Job.state == JobState.OPEN, Job.route == route)
            .group_by(Job.id, Job.priority)
            .having(ready > 0)
            .order_by(Job.priority.desc(), leased, Job.id)
        )
    )


def _claim_from(
    session: Session, *, shift_id: int, job_id: int, group_id: int, suspect: bool, limit: int
) -> list[Claimed]:
    live = exists().where(Shift.id == shift_id, Shift.ended_at.is_(None), Shift.lease_until > now())
    chosen = (
        select(Image.id)
        .where(
            Image.job_id == job_id,
            Image.group_id == group_id,
            Image.state == ImageState.READY,
            Image.suspect.is_(suspect),
            or_(Image.not_before.is_(None), Image.not_before <= now()),
            live,
        )
        .order_by(Image.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("chosen")
        .prefix_with("MATERIALIZED")
    )
    rows = session.execute(
        update(Image)
        .where(Image.id.in_(select(chosen.c.id)), Image.state == ImageState.READY)
        .values(state=ImageState.LEASED, shift_id=shift_id)
        .returning(
            Image.id,
            Image.job_id,
            Image.group_id,
            Image.request_key,
            Image.generation,
            Image.suspect,
            Image.options,
            *SPEC_COLUMNS,
        )
    ).all()
    digest = weights_digest_of(session, group_id)
    claimed = [
        Claimed(
            id=row.id,
            job_id=row.job_id,
            group_id=row.group_id,
            request_key=row.request_key,
            generation=row.generation,
            solo=row.suspect,
            spec=spec_of(row, digest),
        )
        for row in rows
    ]
    return sorted(claimed, key=lambda image: image.id)


def weights_digest_of(session: Session, group_id: int) -> str:
    """The digest of the weights that a group is rendered with."""
    return session.scalars(
        select(Model.weights_digest)
        .join(Group, Group.model_id == Model.id)
        .where(Group.id == group_id)
    ).one()


def ready_unless_cancelled() -> ColumnElement[str]:
    """Where an image goes when its shift lets go of it."""
    cancelled = exists().where(Job.id == Image.job_id, Job.state == JobState.CANCELLED)
    return case((cancelled, ImageState.CANCELLED), else_=ImageState.READY)


def _power_of_two(exponent: ColumnElement[int] | InstrumentedAttribute[int]) -> ColumnElement[int]:
    # Spelled out: not every SQLite has pow().
    return case(*((exponent == n, 2**n) for n in range(10)), else_=2**10)

"""What all statements on images share: their specification, who holds them, their history.

What a worker says for every batch is built once, with places for its values (`bindparam`).
Building such a statement takes SQLAlchemy longer than PostgreSQL needs to execute it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Update,
    and_,
    bindparam,
    case,
    exists,
    literal_column,
    select,
    update,
)
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.queries.bulk import insert_few
from imagemill.db.queries.tallies import move_images
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState, JobState, Outcome
from imagemill.db.tables import Attempt, Group, Image, Job, Model, Row, Shift


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an image was not rendered, and whether it was alone in the forward pass."""

    code: str
    message: str
    retryable: bool
    solo: bool


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

RELEASED = (Image.id, Image.job_id, Image.group_id, Image.state, Image.generation, Image.failures)
"""What a transition out of `leased` returns for `record_release`."""

_IDS_A_QUERY = 1000

OWN_KEY = "id:"
"""How the `key_base` of a row begins that has an `id` in its manifest."""


def of_row(job_id: int, key: str) -> tuple[ColumnElement[bool], ...]:
    """The conditions on `Row` that name the row of a job that has this `id` in its manifest."""
    return Row.job_id == job_id, Row.key_base == f"{OWN_KEY}{key}"


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
    # SQLite's RETURNING gives 7.0 as 7, which would make the file's record another one.
    values["guidance_scale"] = float(values["guidance_scale"])
    return ImageSpec.from_document({**values, **image.options, "weights_digest": weights_digest})


def weights_digest_of(session: Session, group_id: int) -> str:
    """The digest of the weights that a group is rendered with."""
    return session.scalars(
        select(Model.weights_digest)
        .join(Group, Group.model_id == Model.id)
        .where(Group.id == group_id)
    ).one()


def jobs_of(session: Session, image_ids: Sequence[int]) -> dict[int, int]:
    """The jobs of images by the images' ids; an image that is not there has none."""
    found: dict[int, int] = {}
    for start in range(0, len(image_ids), _IDS_A_QUERY):
        some = image_ids[start : start + _IDS_A_QUERY]
        rows = session.execute(select(Image.id, Image.job_id).where(Image.id.in_(some)))
        found.update({row[0]: row[1] for row in rows})
    return found


def in_state(state: ImageState) -> ColumnElement[bool]:
    """`images.state = '…'`, with the state as a literal.

    A planner uses a partial index only if it can see that the condition implies the index's own.
    It can't see that of a parameter.
    """
    return Image.state == literal_column(f"'{state}'")


def flawed() -> ColumnElement[bool]:
    """The image is done and its picture is not ok; with a literal, as in `in_state`."""
    return Image.outcome != literal_column(f"'{Outcome.OK}'")


ShiftId: TypeAlias = int | BindParameter[int]
"""A shift's id, or its place in a statement that is built once."""


def hold(session: Session, shift_id: int) -> bool:
    """Whether the shift's lease is live. If so, the shift can't be ended before this transaction.

    The lock on the shift's row is what prevents it. Without it, a rescuer could end and empty the
    shift while we lease an image to it: the rescuer does not see our uncommitted lease, and the
    image would belong for ever to a shift that is over.
    """
    found = session.scalar(_HOLD, {"shift": shift_id})
    return found is not None


def held_by(shift_id: ShiftId) -> ColumnElement[bool]:
    """The fence: the image is leased by this shift, and the shift's lease is still live.

    Every statement of a shift carries it. So a worker that was frozen, and whose images went to
    somebody else meanwhile, changes nothing when it comes back.
    """
    live = exists().where(live_shift(shift_id))
    return and_(in_state(ImageState.LEASED), Image.shift_id == shift_id, live)


def update_images() -> Update:
    """`UPDATE images`, for transactions that hold no image as an object.

    SQLAlchemy would look for such objects at each update, to change them too.
    """
    return update(Image).execution_options(synchronize_session=False)


def release(session: Session, which: ColumnElement[bool], *, shift_id: int) -> int:
    """Return the leased images that `which` selects, without a charge; how many there were."""
    rows = session.execute(
        update_images()
        .where(in_state(ImageState.LEASED), which)
        .values(state=ready_unless_cancelled(), shift_id=None, begun_at=None)
        .returning(*RELEASED)
    ).all()
    record_release(session, rows, shift_id=shift_id)
    return len(rows)


def ready_unless_cancelled() -> ColumnElement[str]:
    """Where an image goes when its shift lets go of it."""
    cancelled = exists().where(Job.id == Image.job_id, Job.state == JobState.CANCELLED)
    return case((cancelled, ImageState.CANCELLED), else_=ImageState.READY)


def record_release(
    session: Session,
    rows: Sequence[Any],
    *,
    shift_id: int,
    event: str | None = None,
    failure: Failure | None = None,
) -> None:
    """Count images that their shift let go of, and append to their history.

    `rows` are what a statement that ends in `RELEASED` returned. If `event` is given, it happened
    to all of them; the history of a dead image says `dead` instead.
    """
    for state in (ImageState.READY, ImageState.DEAD, ImageState.CANCELLED):
        gone = [row for row in rows if row.state == state]
        places = [(row.job_id, row.group_id) for row in gone]
        move_images(session, places, source=ImageState.LEASED, target=state)
        images = [(row.id, row.generation) for row in gone]
        if event is not None:
            happened = "dead" if state is ImageState.DEAD else event
            record_events(session, images, shift_id=shift_id, event=happened, failure=failure)
        if state is ImageState.CANCELLED:
            record_events(session, images, shift_id=shift_id, event="cancelled")


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
    rows = [
        {**values, "image_id": image_id, "generation": generation}
        for image_id, generation in images
    ]
    insert_few(session, Attempt, rows)


def live_shift(shift_id: ShiftId) -> ColumnElement[bool]:
    """The condition on `Shift` that this is the shift, and that its lease is live."""
    return and_(Shift.id == shift_id, Shift.ended_at.is_(None), Shift.lease_until > now())


_HOLD = select(Shift.id).where(live_shift(bindparam("shift"))).with_for_update(read=True)

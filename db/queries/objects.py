"""Recording what was rendered: one object a request, and every image that waits for it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.queries.claims import held_by, record_events
from db.queries.tallies import move_images
from db.states import ImageState, Outcome
from db.tables import Environment, Image, Object


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """A file that is in storage now, to be recorded. Sizes in pixels and bytes."""

    request_key: str
    object_key: str
    uri: str
    sha256: str
    pixels_sha256: str
    size_bytes: int
    width: int
    height: int
    format: str
    outcome: Outcome
    cut: str | None
    seconds: float


def complete(
    session: Session, *, shift_id: int, environment_id: int, stored: Collection[StoredImage]
) -> int:
    """Make every image done that waits for one of these files; how many became done.

    The first object of a request wins. The shift's own images are moved under the fence, and
    with them any ready image (also of other jobs) that asks for the same file.
    """
    # In one order everywhere, so that two shifts recording the same requests can't deadlock.
    ordered = sorted(stored, key=lambda image: image.request_key)
    if not ordered:
        return 0
    rows = [{**asdict(image), "environment_id": environment_id} for image in ordered]
    session.execute(_insert_first(session), rows)
    return finish_known(
        session, shift_id=shift_id, request_keys=[image.request_key for image in ordered]
    )


def finish_known(session: Session, *, shift_id: int, request_keys: Collection[str]) -> int:
    """Make images done whose request has an object already: the shift's, and ready ones."""
    objects = dict(
        session.execute(
            select(Object.request_key, Object.id).where(Object.request_key.in_(list(request_keys)))
        ).tuples()
    )
    return sum(
        _finish(session, key=key, object_id=objects[key], shift_id=shift_id)
        for key in sorted(objects)
    )


def find_objects(session: Session, request_keys: Collection[str]) -> dict[str, int]:
    """The ids of the objects that exist already, by request key."""
    rows = session.execute(
        select(Object.request_key, Object.id).where(Object.request_key.in_(list(request_keys)))
    )
    return dict(rows.tuples())


def environment_id(session: Session, *, fingerprint: str, document: dict[str, Any]) -> int:
    """The id of an environment, recorded once per distinct fingerprint."""
    values = {"fingerprint": fingerprint, "document": document}
    session.execute(insert_new(session, Environment, values, key="fingerprint"))
    return session.scalars(
        select(Environment.id).where(Environment.fingerprint == fingerprint)
    ).one()


def insert_new(session: Session, table: type[Any], values: Any, *, key: str) -> Any:
    """`INSERT … ON CONFLICT (key) DO NOTHING`, in the session's dialect."""
    dialect = session.get_bind().dialect.name
    statement = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return statement.values(values).on_conflict_do_nothing(index_elements=[key])


def _insert_first(session: Session) -> Any:
    dialect = session.get_bind().dialect.name
    statement = postgresql.insert(Object) if dialect == "postgresql" else sqlite.insert(Object)
    return statement.on_conflict_do_nothing(index_elements=["request_key"])


def _finish(session: Session, *, key: str, object_id: int, shift_id: int) -> int:
    mine = and_(Image.request_key == key, held_by(shift_id))
    waiting = and_(Image.request_key == key, Image.state == ImageState.READY)
    return _make_done(
        session, mine, ImageState.LEASED, object_id=object_id, shift_id=shift_id
    ) + _make_done(session, waiting, ImageState.READY, object_id=object_id, shift_id=shift_id)


def _make_done(
    session: Session,
    which: ColumnElement[bool],
    source: ImageState,
    *,
    object_id: int,
    shift_id: int,
) -> int:
    rows = session.execute(
        update(Image)
        .where(which)
        .values(
            state=ImageState.DONE,
            object_id=object_id,
            shift_id=None,
            begun_at=None,
            not_before=None,
            error_code=None,
            error_message=None,
        )
        .returning(Image.id, Image.job_id, Image.group_id, Image.generation)
    ).all()
    places = [(row.job_id, row.group_id) for row in rows]
    move_images(session, places, source=source, target=ImageState.DONE)
    record_events(
        session, [(row.id, row.generation) for row in rows], shift_id=shift_id, event="done"
    )
    return len(rows)

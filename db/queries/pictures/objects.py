"""Objects: one is recorded for each request that was rendered, and found by its request key."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, exists, select
from sqlalchemy.orm import Session, aliased

from imagemill.db.compositions import Composition
from imagemill.db.queries.bulk import among_given, insert_few, insert_new, is_postgres, list_given
from imagemill.db.queries.images import held_by, hold, record_events, update_images
from imagemill.db.queries.tallies import move_images
from imagemill.db.states import ImageState, JobState, Outcome
from imagemill.db.tables import CompositionRow, Image, Job, Object, Store

_KEYS_A_QUERY = 5_000
"""Fewer than the parameters that Postgres and SQLite accept in one statement."""

_STORE_KNOWN = exists(select(Store.id))
"""Readers of such a database get the store's address, never an object's own `uri`: on PostgreSQL
that is left out, a quarter of an object's row."""

_FINISHABLE = (JobState.OPEN, JobState.PAUSED)
"""Jobs whose ready images become done when somebody else renders the same request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewObject:
    """An object to record: its file is in storage now. Sizes are in pixels and bytes.

    `composition` is the recorded micro-batch that it was rendered in, if there was one.
    """

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
    composition: Composition | None = None


_COLUMNS = tuple(field.name for field in fields(NewObject) if field.name != "composition")


def complete(
    session: Session, *, shift_id: int, environment_id: int, stored: Collection[NewObject]
) -> int:
    """Make every image done that waits for one of these files; how many became done.

    The first object of a request wins. The shift's own images are moved under the fence. With
    them go all ready images, also of other jobs, that ask for the same file. A shift whose lease
    is over records nothing.
    """
    if not stored or not hold(session, shift_id):
        return 0
    # Every shift inserts in this order. So two shifts that record the same requests wait for each
    # other, and can't deadlock.
    ordered = sorted(stored, key=lambda image: image.request_key)
    compositions = _record_compositions(session, ordered)
    rows = [
        {name: getattr(image, name) for name in _COLUMNS}
        | {"environment_id": environment_id, "composition_id": compositions[image.composition]}
        for image in ordered
    ]
    insert_few(session, Object, rows, unless_there=True, empty_if=("uri", _STORE_KNOWN))
    return _finish(session, shift_id=shift_id, keys=[image.request_key for image in ordered])


def finish_known(session: Session, *, shift_id: int, request_keys: Collection[str]) -> int:
    """Make the shift's images, and ready ones, done if their request has an object already."""
    known = find_objects(session, request_keys)
    if not known or not hold(session, shift_id):
        return 0
    return _finish(session, shift_id=shift_id, keys=sorted(known))


def find_objects(
    session: Session, request_keys: Collection[str], *, keep: bool = False
) -> dict[str, tuple[int, str]]:
    """The id and the outcome of the objects that exist already, by request key.

    With `keep` nobody deletes one of them before the end of this transaction.
    """
    found: dict[str, tuple[int, str]] = {}
    postgres = is_postgres(session)
    keys = sorted(request_keys)  # whoever locks several does it in this order
    for start in range(0, len(keys), _KEYS_A_QUERY):
        wanted = keys[start : start + _KEYS_A_QUERY]
        rows = session.execute(_known(postgres, keep), {"keys": list_given(postgres, wanted)})
        found |= {key: (object_id, outcome) for key, object_id, outcome in rows}
    return found


@cache
def _known(postgres: bool, keep: bool) -> Select[str, int, str]:
    query = select(Object.request_key, Object.id, Object.outcome)
    query = query.where(among_given(postgres, Object.request_key, "keys"))
    if keep:
        query = query.order_by(Object.request_key).with_for_update(read=True, key_share=True)
    return query


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """An object that is there already, and which of a request's keys it has."""

    request_key: str
    object_id: int
    outcome: str


def find_files(
    session: Session, keys: Sequence[tuple[str, ...]], *, keep: bool = False
) -> dict[int, FoundFile]:
    """The files of requests that are there already, by the request's place in `keys`.

    `keys` are a request's keys in every metadata version, the newest first.

    A file of an earlier metadata version has the same pixels, so it is taken as it is, and the
    request keeps its key: an upgrade makes nothing be rendered again. `keep` is that of
    `find_objects`.
    """
    found = find_objects(session, [newest for newest, *_ in keys], keep=keep)
    older = [key for newest, *others in keys if newest not in found for key in others]
    found |= find_objects(session, older, keep=keep)
    files: dict[int, FoundFile] = {}
    if not found:
        return files
    for place, own in enumerate(keys):
        key = next((key for key in own if key in found), None)
        if key is not None:
            object_id, outcome = found[key]
            files[place] = FoundFile(request_key=key, object_id=object_id, outcome=outcome)
    return files


def objects_of_job(
    session: Session, job_id: int, *, limit: int, after: int = 0
) -> list[tuple[int, Object]]:
    """The objects of a job's done images, in the order of the images, from the one after `after`.

    Each object comes once, with the id of the first of the job's images that share it. A page
    begins behind an id instead of skipping rows, so every page costs the same, and a job of any
    size can be read page by page.
    """
    twin = aliased(Image)
    shared = exists().where(
        twin.object_id == Image.object_id, twin.job_id == Image.job_id, twin.id < Image.id
    )
    rows = session.execute(
        select(Image.id, Object)
        .join(Object, Object.id == Image.object_id)
        .where(Image.job_id == job_id, Image.id > after, ~shared)
        .order_by(Image.id)
        .limit(limit)
    )
    return [(image_id, stored) for image_id, stored in rows]


def object_key_of_image(session: Session, image_id: int) -> str | None:
    """The key of an image's file; None for an image that is not done, or not there."""
    return session.scalar(
        select(Object.object_key)
        .join(Image, Image.object_id == Object.id)
        .where(Image.id == image_id)
    )


def known_keys(session: Session, object_keys: Collection[str]) -> set[str]:
    """Those of these keys that have a row."""
    return set(
        session.scalars(select(Object.object_key).where(Object.object_key.in_(list(object_keys))))
    )


def _record_compositions(
    session: Session, stored: Collection[NewObject]
) -> dict[Composition | None, int | None]:
    """The ids of the compositions of these files, each recorded once; None for none."""
    digests = {
        image.composition: image.composition.digest()
        for image in stored
        if image.composition is not None
    }
    if not digests:
        return {None: None}
    rows = [
        {
            "digest": digest,
            "slots": composition.slots,
            "request_keys": list(composition.request_keys),
            "image_ids": list(composition.image_ids),
        }
        # In one order everywhere, as the objects are.
        for composition, digest in sorted(digests.items(), key=lambda item: item[1])
    ]
    session.execute(insert_new(session, CompositionRow, rows))
    query = select(CompositionRow.digest, CompositionRow.id)
    found = session.execute(query.where(CompositionRow.digest.in_(digests.values())))
    ids = {row.digest: row.id for row in found}
    return {None: None} | {composition: ids[digest] for composition, digest in digests.items()}


def _finish(session: Session, *, shift_id: int, keys: Sequence[str]) -> int:
    # The objects are locked, so that `requeue` can't delete one while an image gets it.
    known = find_objects(session, keys, keep=True)
    postgres = is_postgres(session)
    mine, theirs = _finishing(postgres)
    there = {"keys": list_given(postgres, sorted(known))}
    own = session.execute(mine, {**there, "shift": shift_id}).all()
    _count_done(session, own, source=ImageState.LEASED, shift_id=shift_id)
    others = session.execute(theirs, there).all()
    _count_done(session, others, source=ImageState.READY, shift_id=shift_id)
    return len(own) + len(others)


@cache
def _finishing(postgres: bool) -> tuple[Any, Any]:
    """The statements that make images done: the shift's own, and those that wait for their turn."""
    asked = among_given(postgres, Image.request_key, "keys")
    mine = and_(asked, held_by(bindparam("shift")))
    # An image that somebody is claiming, finishing or cancelling at this moment is left to them:
    # nobody waits here. A loading job may still be rejected, and a cancelled one wants no images.
    waiting = (
        select(Image.id)
        .where(
            asked,
            Image.shift_id.is_(None),
            Image.object_id.is_(None),
            Image.state.not_in((ImageState.DEAD, ImageState.CANCELLED)),
            exists().where(Job.id == Image.job_id, Job.state.in_(_FINISHABLE)),
        )
        .order_by(Image.id)
        .with_for_update(skip_locked=True)
        .cte("waiting")
        .prefix_with("MATERIALIZED")
    )
    theirs = Image.id.in_(select(waiting.c.id))
    return _made_done(mine), _made_done(theirs)


def _made_done(which: ColumnElement[bool]) -> Any:
    its = Object.request_key == Image.request_key
    return (
        update_images()
        .where(which)
        .values(
            state=ImageState.DONE,
            object_id=select(Object.id).where(its).scalar_subquery(),
            outcome=select(Object.outcome).where(its).scalar_subquery(),
            shift_id=None,
            begun_at=None,
            not_before=None,
            error_code=None,
            error_message=None,
        )
        .returning(Image.id, Image.job_id, Image.group_id, Image.generation)
    )


def _count_done(
    session: Session, rows: Sequence[Any], *, source: ImageState, shift_id: int
) -> None:
    places = [(row.job_id, row.group_id) for row in rows]
    move_images(session, places, source=source, target=ImageState.DONE)
    record_events(
        session, [(row.id, row.generation) for row in rows], shift_id=shift_id, event="done"
    )

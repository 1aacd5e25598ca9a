"""Pictures that came with requests: who uses them, and which may go.

Whoever uses one says so in a transaction of its own (`note_upload`, `touch_upload`) before it
stores or looks up the file. Whoever sweeps holds the row while it deletes the file. So a file is
either seen to be in use, or stored again after it was deleted.
"""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.queries.bulk import among, insert_few, insert_or_update
from imagemill.db.specs import INPUT_IMAGES
from imagemill.db.states import ApiState
from imagemill.db.tables import ApiFile, ApiRequest, Image, Upload


def note_upload(session: Session, digest: str) -> None:
    """Record that a picture is about to be stored. Waits for whoever is deleting it."""
    row = {"digest": digest, "used_at": now()}
    session.execute(insert_or_update(session, Upload, row, keys=["digest"]))


def touch_upload(session: Session, digest: str) -> None:
    """Record that a picture is about to be used, if it was uploaded. Waits as `note_upload`."""
    session.execute(update(Upload).where(Upload.digest == digest).values(used_at=now()))


def old_uploads(
    session: Session, *, older_than: timedelta, limit: int, after: str = ""
) -> list[str]:
    """Digests of pictures that nobody has asked for in this time, from behind `after`."""
    query = select(Upload.digest).where(_old(older_than), Upload.digest > after)
    return list(session.scalars(query.order_by(Upload.digest).limit(limit)))


def referred_to(session: Session, digests: Collection[str]) -> set[str]:
    """Those of the pictures that an image starts from, in whatever state it is.

    It reads all images, so ask for many at once and not often.
    """
    names = [Image.options[name].as_string() for name in INPUT_IMAGES]
    given = or_(*(among(session, name, digests) for name in names))
    query = select(*names).where(given).distinct()
    found = {digest for row in session.execute(query) for digest in row if digest is not None}
    return found & set(digests)


def unknown(session: Session, digests: Collection[str]) -> set[str]:
    """Those of the pictures that are not recorded as uploads."""
    recorded = select(Upload.digest).where(among(session, Upload.digest, digests))
    return set(digests) - set(session.scalars(recorded))


def record_found(session: Session, digests: Collection[str]) -> None:
    """Record pictures that were found in the store, as if they were used now for the last time."""
    rows = [{"digest": digest} for digest in sorted(digests)]
    insert_few(session, Upload, rows, unless_there=True)


def take_old_uploads(
    session: Session, digests: Collection[str], *, older_than: timedelta
) -> list[str]:
    """Forget pictures, but those that somebody has asked for meanwhile; the digests of the others.

    Delete their files in the same transaction: whoever wants to store one waits for its end.
    """
    gone = delete(Upload).where(Upload.digest.in_(digests), _old(older_than))
    return sorted(session.scalars(gone.returning(Upload.digest)))


def are_requests_loaded(session: Session) -> bool:
    """Whether every request has its job: then what a request needs is what images refer to."""
    waiting = select(exists().where(ApiRequest.state == ApiState.VALIDATING))
    return not session.scalar(waiting)


def delete_old_files(session: Session, *, older_than: timedelta) -> int:
    """Delete uploaded files that are so old; how many. Call it when all requests are loaded."""
    before = seconds_from_now(-older_than.total_seconds())
    gone = session.execute(delete(ApiFile).where(ApiFile.created_at < before).returning(ApiFile.id))
    return len(gone.all())


def _old(age: timedelta) -> ColumnElement[bool]:
    return Upload.used_at < seconds_from_now(-age.total_seconds())

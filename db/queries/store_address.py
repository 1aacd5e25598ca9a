"""Where the object store is now: one row, from which readers derive where each object is.

An object's row says where it was when it was stored. A folder may be moved since then, and a
bucket may be reached by another name, so readers join this address with the object's key.
"""

from sqlalchemy import text
from sqlalchemy.orm import Session

from imagemill.db.queries.bulk import insert_new
from imagemill.db.tables import Object, Store
from imagemill.db.views.views import STORE_ADDRESS

_ONE = 1


def recorded_store(session: Session) -> tuple[str, str | None] | None:
    """The address as `record_address` was given it; None where nobody has recorded it yet."""
    store = session.get(Store, _ONE)
    return None if store is None else (store.address, store.below_database)


def record_address(session: Session, *, address: str, below_database: str | None) -> None:
    """Make this the present address; see `Store` for both."""
    values = {"address": address, "below_database": below_database}
    session.execute(insert_new(session, Store, {"id": _ONE, **values}))
    store = session.get_one(Store, _ONE)
    store.address, store.below_database = address, below_database


def store_address(session: Session) -> str | None:
    """What stands before `/` and each object's key; None where nobody has recorded it yet."""
    dialect = session.get_bind().dialect.name
    found: str | None = session.scalar(text(STORE_ADDRESS[dialect]))
    return found


def object_uri(address: str | None, stored: Object) -> str:
    """Where an object is, at the address that `store_address` gave."""
    return stored.uri if address is None else f"{address}/{stored.object_key}"

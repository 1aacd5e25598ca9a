"""Keys of the HTTP API: making, finding and revoking them. Only their hashes are stored."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.documents import JSON
from imagemill.db.errors import UsageError
from imagemill.db.queries.bulk import insert_new, insert_or_update
from imagemill.db.tables import ApiKey

ROLES = ("read", "submit", "admin")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyReport:
    """A key without its secret. A limit of None is no limit; days are days of UTC."""

    name: str = field(metadata={JSON: "api_key"})
    role: str
    images_a_day: int | None
    open_images: int | None
    created_at: datetime
    revoked_at: datetime | None


def hash_of(secret: str) -> str:
    """What the database knows of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(
    session: Session,
    *,
    name: str,
    secret: str,
    role: str,
    images_a_day: int | None,
    open_images: int | None,
) -> None:
    """Record a key. Raises `UsageError` if one has this name, or had it."""
    values = {
        "name": name,
        "hash": hash_of(secret),
        "role": role,
        "images_a_day": images_a_day,
        "open_images": open_images,
    }
    made = session.execute(insert_new(session, ApiKey, values).returning(ApiKey.id)).first()
    if made is None:
        raise UsageError(f"a key {name!r} is there or was there; names are not used again")


def keep_key(session: Session, *, name: str, secret: str) -> None:
    """Make an `admin` key with this secret, or give the secret to the key of this name."""
    values = {"name": name, "hash": hash_of(secret), "role": "admin"}
    session.execute(insert_or_update(session, ApiKey, values, keys=("name",)))


def find_key(session: Session, secret: str) -> KeyReport | None:
    """The live key with this secret."""
    query = select(ApiKey).where(ApiKey.hash == hash_of(secret), ApiKey.revoked_at.is_(None))
    key = session.scalars(query).first()
    return None if key is None else _report(key)


def live_keys(session: Session) -> int:
    """How many keys are not revoked."""
    query = select(func.count()).select_from(ApiKey).where(ApiKey.revoked_at.is_(None))
    return session.scalar(query) or 0


def has_keys(session: Session) -> bool:
    """Whether a key was ever made: revoking the last one lets nobody in."""
    return session.scalar(select(ApiKey.id).limit(1)) is not None


def list_keys(session: Session) -> list[KeyReport]:
    """Every key, oldest first, also those that were revoked."""
    return [_report(key) for key in session.scalars(select(ApiKey).order_by(ApiKey.id))]


def revoke_key(session: Session, name: str) -> bool:
    """Let a key open nothing any more; False if it did not already. Raises `UsageError`."""
    revoked = session.execute(
        update(ApiKey)
        .where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now())
        .returning(ApiKey.id)
    ).first()
    if revoked is not None:
        return True
    if session.scalar(select(ApiKey.id).where(ApiKey.name == name)) is None:
        raise UsageError(f"no key {name!r}; `imagemill keys` lists them")
    return False


def signing_secret(session: Session, name: str) -> str | None:
    """What addresses of a live key's pictures are signed with: only the database knows it."""
    query = select(ApiKey.hash).where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
    return session.scalar(query)


def lock_key(session: Session, name: str) -> None:
    """Let one transaction at a time count what a key has asked for and record more."""
    session.execute(select(ApiKey.id).where(ApiKey.name == name).with_for_update())


def _report(key: ApiKey) -> KeyReport:
    return KeyReport(
        name=key.name,
        role=key.role,
        images_a_day=key.images_a_day,
        open_images=key.open_images,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
    )

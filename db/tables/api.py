"""The tables of `imagemill serve`: who may ask, what was asked, and uploaded files."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from imagemill.db.clock import now
from imagemill.db.states import ApiState
from imagemill.db.tables.base import OWNER_CHARACTERS, Base, Hash, Id
from imagemill.db.tables.seed_column import Seed


class ApiKey(Base):
    """Who may use the API: the hash of a secret that only its user has, a role and limits.

    Names are never used again, because what a key has asked for is found by its name.
    """

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(OWNER_CHARACTERS), unique=True)
    hash: Mapped[str] = mapped_column(Hash, unique=True)
    """SHA-256 of the secret. The secret is random and long, so nobody finds it from its hash."""
    role: Mapped[str] = mapped_column(String(16))
    """read, submit or admin."""
    images_a_day: Mapped[int | None] = mapped_column(BigInteger)
    open_images: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    revoked_at: Mapped[datetime | None]


class ApiRequest(Base):
    """What somebody asked for over HTTP: pictures of one prompt, or a batch of such requests.

    It is recorded before its job is loaded, so a server that dies in between loses nothing.
    `job_id` is no foreign key: a job may be removed, and what was asked stays.
    """

    __tablename__ = "api_requests"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        CheckConstraint(
            f"state IN ({', '.join(repr(word.value) for word in ApiState)})", name="state"
        ),
        Index("ix_api_requests_day", *("owner", "created_at")),
        Index("ix_api_requests_state", *("state", "id")),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    """images or batch."""
    owner: Mapped[str] = mapped_column(String(OWNER_CHARACTERS))
    """The name of the key; empty where none is asked for."""
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(Hash)
    """SHA-256 of what was asked, to tell a repeated request from another one."""
    images: Mapped[int] = mapped_column(BigInteger)
    seed: Mapped[int] = mapped_column(Seed)
    """The job's seed."""
    document: Mapped[dict[str, Any]]
    """What is needed to load the job; of a batch also what its owner wrote about it."""
    state: Mapped[str] = mapped_column(String(16), default=ApiState.VALIDATING)
    job_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    refused: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """The lines of a batch that can't be rendered, each with its error."""
    errors: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """Why the whole of it failed."""
    counts: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """The counts of a batch's lines when it ended."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    expires_at: Mapped[datetime | None]
    loaded_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Upload(Base):
    """A picture that came with a request and is kept in the store under its hash.

    It may go when nobody has asked for it since `used_at` for long, and no image refers to it.
    """

    __tablename__ = "uploads"

    digest: Mapped[str] = mapped_column(Hash, primary_key=True)
    """SHA-256 of its bytes."""
    used_at: Mapped[datetime] = mapped_column(server_default=now(), index=True)
    """When it was last sent along, or named by a manifest."""


class ApiFile(Base):
    """A file that somebody uploaded. Files of results are not stored: they are read when asked."""

    __tablename__ = "api_files"
    __table_args__ = (Index("ix_api_files_owner", *("owner", "id")),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(OWNER_CHARACTERS))
    filename: Mapped[str]
    purpose: Mapped[str] = mapped_column(String(32))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Hash)
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime] = mapped_column(server_default=now())

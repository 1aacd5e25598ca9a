"""The tables of the data-set side: exports, scores, tags and the store."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from imagemill.db.clock import now
from imagemill.db.tables.base import Base, Hash, Id, partial

_NUMBER = text("value IS NOT NULL")


class ExportRow(Base):
    """One export of pictures: what was asked for, where to, and the digest of all of it."""

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("target", "digest"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    format: Mapped[str] = mapped_column(String(32))
    target: Mapped[str]
    images: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(Hash)
    document: Mapped[dict[str, Any]]
    """Format, selection, options, counts and versions, as in the export's own record."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    finished_at: Mapped[datetime | None]


class Score(Base):
    """What a scorer says of an image's picture: a number, or a text such as a hash or a caption.

    A newer version of the scorer replaces what an older one said. A score belongs to the image's
    `generation`: once the image was rendered again, it says nothing about the new picture.
    """

    __tablename__ = "scores"
    __table_args__ = (
        CheckConstraint("(value IS NULL) != (text IS NULL)", name="one_value"),
        # For pages in the order of a score: the gallery's, forwards and backwards.
        partial("ix_scores_value", "name", "value", "image_id", where=_NUMBER),
    )

    image_id: Mapped[int] = mapped_column(
        ForeignKey("images.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    scorer: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int]
    value: Mapped[float | None]
    text: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class ScoreFailure(Base):
    """Why a scorer could not judge an image. It goes when the scorer judges the image later."""

    __tablename__ = "score_failures"

    image_id: Mapped[int] = mapped_column(
        ForeignKey("images.id", ondelete="CASCADE"), primary_key=True
    )
    scorer: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int]
    code: Mapped[str] = mapped_column(String(64))
    message: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class ScoreWork(Base):
    """A few images that a scorer has yet to judge; deleted by what records their scores.

    It belongs to the live shift in `shift_id`; without one, or when that shift has ended, any
    worker may take it.
    """

    __tablename__ = "score_work"
    __table_args__ = (Index("ix_score_work_route", *("route", "id")),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    route: Mapped[str] = mapped_column(String(64))
    scorer: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    images: Mapped[int]
    image_ids: Mapped[list[int]] = mapped_column(JSON)
    shift_id: Mapped[int | None] = mapped_column(ForeignKey("shifts.id"))
    losses: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often a worker was lost that held it."""


class Tag(Base):
    """A word that somebody, or a command, gave to an image."""

    __tablename__ = "tags"
    __table_args__ = (Index("ix_tags_tag", "tag"),)

    image_id: Mapped[int] = mapped_column(
        ForeignKey("images.id", ondelete="CASCADE"), primary_key=True
    )
    tag: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class Store(Base):
    """The object store's present address, in the one row with id 1; workers and others write it."""

    __tablename__ = "store"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    address: Mapped[str]
    """What stands before `/` and an object's key: `s3://bucket/prefix` or `file:///folder`."""
    below_database: Mapped[str | None]
    """What a folder's URL has after that of the SQLite database's folder: both may be moved."""

"""The tables of the data-set side: exports. `db/tables.py` has those of the work itself."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from imagemill.db.clock import now
from imagemill.db.tables import Base, Hash, Id


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

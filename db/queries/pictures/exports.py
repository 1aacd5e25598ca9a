"""The record of exports: which were made, of what, where to, and the digest of each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.errors import UsageError
from imagemill.db.tables import ExportRow

_ID = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """One export. `finished_at` is None for one that was interrupted, or still goes on."""

    id: int
    format: str
    target: str
    images: int
    digest: str
    document: dict[str, Any]
    created_at: datetime
    finished_at: datetime | None


def record_export(session: Session, *, target: str, document: Mapping[str, Any]) -> int:
    """Note that an export begins; the same one to the same place is one entry. Its id."""
    found = session.scalar(
        select(ExportRow.id).where(
            ExportRow.target == target, ExportRow.digest == document["digest"]
        )
    )
    if found is not None:
        return found
    row = ExportRow(
        format=document["format"],
        target=target,
        images=document["images"],
        digest=document["digest"],
        document=dict(document),
    )
    session.add(row)
    session.flush()
    return row.id


def finish_export(session: Session, export_id: int) -> None:
    """Note that an export is complete; the first time counts."""
    session.execute(
        update(ExportRow)
        .where(ExportRow.id == export_id, ExportRow.finished_at.is_(None))
        .values(finished_at=now())
    )


def forget_export(session: Session, export_id: int) -> None:
    """Take back the entry of an export that was refused while it was written."""
    session.execute(
        delete(ExportRow).where(ExportRow.id == export_id, ExportRow.finished_at.is_(None))
    )


def list_exports(session: Session, *, limit: int) -> Sequence[ExportReport]:
    """Exports, newest first."""
    rows = session.scalars(select(ExportRow).order_by(ExportRow.id.desc()).limit(limit))
    return [_report(row) for row in rows]


def find_export(session: Session, reference: str) -> ExportReport:
    """The export with this id; `latest` is the newest. Raises `UsageError` if there is none."""
    found = None
    if reference == "latest":
        found = session.scalars(select(ExportRow).order_by(ExportRow.id.desc()).limit(1)).first()
    elif _ID.fullmatch(reference):
        found = session.get(ExportRow, int(reference))
    if found is None:
        raise UsageError(f"no export {reference!r}; `imagemill exports` lists them")
    return _report(found)


def _report(row: ExportRow) -> ExportReport:
    return ExportReport(
        id=row.id,
        format=row.format,
        target=row.target,
        images=row.images,
        digest=row.digest,
        document=row.document,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )

"""Uploaded files of the HTTP API."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from imagemill.db.tables import ApiFile


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """An uploaded file without its content."""

    id: str
    owner: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: datetime


def add_file(
    session: Session, *, file_id: str, owner: str, filename: str, purpose: str, content: bytes
) -> FileReport:
    """Store a file. A second run of the transaction finds nothing of the first."""
    values = {
        "id": file_id,
        "owner": owner,
        "filename": filename,
        "purpose": purpose,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "content": content,
    }
    session.execute(delete(ApiFile).where(ApiFile.id == file_id))
    session.execute(insert(ApiFile).values(values))
    return _report(session.get_one(ApiFile, file_id))


def find_file(session: Session, file_id: str, *, owner: str | None) -> FileReport | None:
    """A file by its id; with an owner, only of that owner."""
    found = session.get(ApiFile, file_id)
    if found is None or owner not in (None, found.owner):
        return None
    return _report(found)


def file_content(session: Session, file_id: str) -> bytes | None:
    """A file's bytes; None if it is not there any more."""
    return session.scalar(select(ApiFile.content).where(ApiFile.id == file_id))


def read_file(session: Session, file_id: str, *, owner: str | None) -> bytes | None:
    """A file's bytes; with an owner, only of that owner's. None if there is no such file."""
    found = find_file(session, file_id, owner=owner)
    return None if found is None else file_content(session, file_id)


def list_files(
    session: Session, *, owner: str | None, purpose: str | None, limit: int, after: str | None
) -> list[FileReport]:
    """Files, newest first, from behind the one with the id `after`."""
    query = select(ApiFile).order_by(ApiFile.created_at.desc(), ApiFile.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(ApiFile.owner == owner)
    if purpose is not None:
        query = query.where(ApiFile.purpose == purpose)
    last = None if after is None else session.get(ApiFile, after)
    if last is not None:
        older = (ApiFile.created_at < last.created_at) | (
            (ApiFile.created_at == last.created_at) & (ApiFile.id < last.id)
        )
        query = query.where(older)
    return [_report(each) for each in session.scalars(query)]


def delete_file(session: Session, file_id: str) -> bool:
    """Delete a file; False if it was not there."""
    gone = session.execute(delete(ApiFile).where(ApiFile.id == file_id).returning(ApiFile.id))
    return gone.first() is not None


def _report(file: ApiFile) -> FileReport:
    return FileReport(
        id=file.id,
        owner=file.owner,
        filename=file.filename,
        purpose=file.purpose,
        size_bytes=file.size_bytes,
        created_at=file.created_at,
    )

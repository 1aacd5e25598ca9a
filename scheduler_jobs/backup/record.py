"""A backup's folder: the names in it, and the record that says what it holds."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagemill.db.errors import UsageError
from imagemill.db.queries.backups import RecordedFile

RECORD = "backup.json"
MANIFEST = "objects.jsonl"
OBJECTS = "objects"
DATABASES = {"sqlite": "database.sqlite3", "postgresql": "database.dump"}
"""The database's copy by its kind: a SQLite file, or an archive of `pg_dump`."""

FORMAT = 1
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupRecord:
    """What `backup.json` says: `at` is the moment (ISO 8601) by the database's clock.

    `digests` has the SHA-256 (hex) of each of the folder's own files. `missing` counts objects
    that the store did not have, or not as recorded, when they were copied. `dump_major` is the
    version of the `pg_dump` that wrote the archive.
    """

    format: int
    version: str
    at: str
    database: str
    revision: str
    jobs: int
    images: int
    objects: int
    objects_copied: bool
    missing: int
    dump_major: int | None
    digests: dict[str, str]


def write_record(folder: Path, record: BackupRecord) -> None:
    """Make the folder a backup."""
    unfinished = folder / f".{RECORD}"
    write_durably(unfinished, json.dumps(asdict(record), indent=1).encode() + b"\n")
    unfinished.rename(folder / RECORD)
    sync_folder(folder)


def read_record(folder: Path) -> BackupRecord:
    """What a folder holds. Raises `UsageError` if it is no whole backup of a format we know."""
    file = folder / RECORD
    if not file.is_file():
        raise UsageError(f"{folder}: no finished backup ({RECORD} is not there)")
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
        if found["format"] != FORMAT:
            raise UsageError(f"{folder}: made by a newer imagemill ({found['version']})")
        record = BackupRecord(**found)
        name = DATABASES[record.database]
        digests = {each: record.digests[each] for each in (name, MANIFEST)}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not a record of a backup") from error
    for each, digest in digests.items():
        if not (folder / each).is_file() or file_digest(folder / each) != digest:
            raise UsageError(f"{folder / each}: missing or damaged; this backup can't be restored")
    return record


def read_manifest(folder: Path) -> Iterator[RecordedFile]:
    """Every stored file that the backup knows."""
    with (folder / MANIFEST).open() as lines:
        for line in lines:
            yield RecordedFile(**json.loads(line))


def file_digest(file: Path) -> str:
    """A file's SHA-256 (hex)."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_durably(file: Path, body: bytes) -> None:
    """Write a new file for this user alone, and wait until it is on disk."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(body)
        opened.flush()
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's list of names is on disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

"""A backup's folder: the names in it, and the record that says what it holds."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from imagemill.db.errors import BadKey, UsageError
from imagemill.db.process.owned_folder import OWNER
from imagemill.db.queries.backups import RecordedFile
from imagemill.db.storage.keys import checked_key

RECORD = "backup.json"
MANIFEST = "objects.jsonl"
OBJECTS = "objects"
DATABASES = {"sqlite": "database.sqlite3", "postgresql": "database.dump"}
"""The database's copy by its kind: a SQLite file, or an archive of `pg_dump`."""

FORMAT = 1

_BESIDE_SQLITE = {f"{DATABASES['sqlite']}{suffix}" for suffix in ("-wal", "-shm", "-journal")}
_NAMES = {OWNER, f".{RECORD}", MANIFEST, OBJECTS, *DATABASES.values(), *_BESIDE_SQLITE}
"""What is in the folder while a backup is made."""

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupRecord:
    """What `backup.json` says: `at` is the moment (ISO 8601) by the database's clock.

    `digests` has the SHA-256 (hex) of each of the folder's own files. `missing` counts objects
    that the store did not have, or not as recorded, when they were copied. `dump_major` is the
    version of the `pg_dump` that wrote the archive.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

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


_RECORD = TypeAdapter(BackupRecord)
_FILE = TypeAdapter(RecordedFile)


def write_record(folder: Path, record: BackupRecord) -> None:
    """Make the folder a backup."""
    unfinished = folder / f".{RECORD}"
    write_durably(unfinished, json.dumps(asdict(record), indent=1).encode() + b"\n")
    unfinished.rename(folder / RECORD)
    sync_folder(folder)


def is_unfinished(folder: Path) -> bool:
    """Whether a folder holds what a backup may leave that was interrupted, and nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = {file.name for file in folder.iterdir()}
    return not names or (OWNER in names and RECORD not in names and names <= _NAMES)


def read_record(folder: Path) -> BackupRecord:
    """What a folder holds. Raises `UsageError` if it is no whole backup of a format we know."""
    file = folder / RECORD
    if not file.is_file():
        raise UsageError(f"{folder}: no finished backup ({RECORD} is not there)")
    try:
        body = file.read_bytes()
        found: dict[str, Any] = json.loads(body)
        if found["format"] != FORMAT:
            raise UsageError(f"{folder}: made by a newer imagemill ({found['version']})")
        record = _RECORD.validate_json(body, strict=True)
        datetime.fromisoformat(record.at)
        digests = {each: record.digests[each] for each in (DATABASES[record.database], MANIFEST)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file}: not a record of a backup{_wrong_field(error)}") from error
    for each, digest in digests.items():
        if not (folder / each).is_file() or file_digest(folder / each) != digest:
            raise _damaged(folder / each)
    if record.objects_copied and not (folder / OBJECTS).is_dir():
        raise _damaged(folder / OBJECTS)
    for _ in read_manifest(folder):
        pass  # each line is one, or nothing is restored
    return record


def read_manifest(folder: Path) -> Iterator[RecordedFile]:
    """Every stored file that the backup knows. Raises `UsageError` for a line that is none."""
    with (folder / MANIFEST).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                file = _FILE.validate_json(line)
                checked_key(file.object_key)
            except (ValueError, BadKey) as error:
                raise UsageError(
                    f"{folder / MANIFEST}: line {number:,} names no stored file; "
                    "this backup can't be restored"
                ) from error
            yield file


def _damaged(place: Path) -> UsageError:
    return UsageError(f"{place}: missing or damaged; this backup can't be restored")


def _wrong_field(error: Exception) -> str:
    """Which field of a record is wrong, if that is known."""
    if not isinstance(error, ValidationError):
        return ""
    first = error.errors()[0]
    return f" ({'.'.join(map(str, first['loc']))}: {first['msg']})"


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

"""Making a backup while workers go on: the database at one moment, then the files it names."""

import json
import mimetypes
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.engines import read_only_address
from imagemill.db.errors import DatabaseError, ObjectMissing, UsageError, first_line
from imagemill.db.process.owned_folder import OWNER, own, remove_if_dead
from imagemill.db.process.whole_file import naming
from imagemill.db.queries.backups import Contents, RecordedFile, contents, recorded_files
from imagemill.db.real_paths import real_path
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.storage.inputs import INPUTS
from imagemill.scheduler_jobs.backup import postgres
from imagemill.scheduler_jobs.backup.record import (
    DATABASES,
    FORMAT,
    MANIFEST,
    OBJECTS,
    BackupRecord,
    file_digest,
    is_unfinished,
    read_manifest,
    write_record,
)

THREADS = 8
"""Files copied at a time."""

PAGE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """A finished backup. `missing` are objects that the store did not have as recorded."""

    record: BackupRecord
    missing: tuple[str, ...]


def make_backup(
    database: Database,
    storage: Storage,
    settings: Settings,
    to: Path,
    *,
    objects: bool,
) -> Backup:
    """Write a backup into the new folder `to`; with `objects` it has the files themselves too.

    The copy of the database is one moment of it. Files never change, so those that this moment
    knows are copied afterwards. What an interrupted backup left in `to` is removed first. Raises
    `UsageError` if `to` can't be used; no folder is left then, nor after any other error.
    """
    _check_target(to, storage)
    with _folder_of_its_own(to), naming(to):
        found, dump_major = _copy_database(database, settings, to)
        missing: tuple[str, ...] = ()
        if objects:
            missing = _copy_objects(storage, to)
        kind = "sqlite" if database.is_sqlite else "postgresql"
        record = BackupRecord(
            format=FORMAT,
            version=version("imagemill"),
            at=found.at.isoformat(),
            database=kind,
            revision=found.revision,
            jobs=found.jobs,
            images=found.images,
            objects=found.objects,
            objects_copied=objects,
            missing=len(missing),
            dump_major=dump_major,
            digests={name: file_digest(to / name) for name in (DATABASES[kind], MANIFEST)},
        )
        write_record(to, record)
    return Backup(record=record, missing=missing)


def _check_target(to: Path, storage: Storage) -> None:
    if (to.exists() or to.is_symlink()) and not is_unfinished(to):
        raise UsageError(f"{to} is there already; a backup gets a folder of its own")
    if not to.absolute().parent.is_dir():
        raise UsageError(f"{to.absolute().parent} does not exist")
    if real_path(to).is_relative_to(Path(storage.uri)):
        raise UsageError(f"{to} is inside the store of pictures; name another place")


@contextmanager
def _folder_of_its_own(to: Path) -> Iterator[None]:
    """The new folder for the time of the block; it goes if the block does not end well."""
    if is_unfinished(to):
        _remove_unfinished(to)
    to.mkdir(mode=0o700)
    lock = own(to)
    if lock is None:
        raise _being_written(to)
    try:
        yield
        (to / OWNER).unlink()
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _remove_unfinished(to: Path) -> None:
    """Remove what a backup left that was interrupted, unless it is still being written."""
    with suppress(OSError):
        to.rmdir()  # it was interrupted before it wrote anything
        return
    try:
        remove_if_dead(to)
    except BlockingIOError:
        raise _being_written(to) from None


def _being_written(to: Path) -> UsageError:
    return UsageError(f"{to}: another backup is being written there; wait, or name another folder")


def _copy_database(database: Database, settings: Settings, to: Path) -> tuple[Contents, int | None]:
    """The copy and its manifest of files; what it holds, and the version of its `pg_dump`."""
    if database.file is not None:
        return _copy_sqlite(database.file, to), None
    with database.reading() as session:
        major = int(session.scalars(text("SHOW server_version_num")).one()) // 10_000
        snapshot = session.scalars(text("SELECT pg_export_snapshot()")).one()
        archive = to / DATABASES["postgresql"]
        archive.touch(mode=0o600)
        made_by = postgres.dump(settings, archive, snapshot=snapshot, server_major=major)
        return _describe(session, to), made_by


def _copy_sqlite(file: Path, to: Path) -> Contents:
    copy = to / DATABASES["sqlite"]
    copy.touch(mode=0o600)
    with (
        _sqlite_errors(copy),
        closing(sqlite3.connect(read_only_address(file), uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)  # in one step, so writers neither wait nor are seen
    described = Database(f"sqlite:///{copy}")
    try:
        with described.reading() as session:
            found = _describe(session, to)
    finally:
        described.close()
    with _sqlite_errors(copy), closing(sqlite3.connect(copy)) as target:
        target.execute("PRAGMA journal_mode=DELETE")  # one file, and none beside it
    return found


@contextmanager
def _sqlite_errors(copy: Path) -> Iterator[None]:
    """Within the block, what SQLite says (a full disk, a damaged database) is one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"{copy}: can't be copied: {first_line(error)}") from error


def _describe(session: Session, to: Path) -> Contents:
    with (to / MANIFEST).open("w") as file:
        (to / MANIFEST).chmod(0o600)
        for each in recorded_files(session):
            file.write(json.dumps(asdict(each)) + "\n")
    return contents(session)


def _copy_objects(storage: Storage, to: Path) -> tuple[str, ...]:
    """Copy every file of the manifest, and every input; the keys that could not be copied."""
    copies = FolderStorage(to / OBJECTS)
    (to / OBJECTS).mkdir(mode=0o700)
    inputs = [_as_recorded(item.key, item.size) for item in storage.list(f"{INPUTS}/")]
    with (to / MANIFEST).open("a") as file:
        file.writelines(json.dumps(asdict(each)) + "\n" for each in inputs)
    return tuple(copy_files(read_manifest(to), storage, copies))


def _as_recorded(key: str, size: int) -> RecordedFile:
    return RecordedFile(object_key=key, sha256=key.rpartition("/")[2], size_bytes=size)


def copy_files(files: Iterable[RecordedFile], source: Storage, target: Storage) -> Iterator[str]:
    """Copy files from store to store; yields the keys of those that `source` does not have as
    they were recorded. A file that `target` has already stays."""

    def copied(file: RecordedFile) -> bool:
        try:
            body = source.get(file.object_key)
        except ObjectMissing:
            return False
        if len(body) != file.size_bytes or sha256(body).hexdigest() != file.sha256:
            return False
        target.put(file.object_key, body, media_type=_media_type(file.object_key))
        return True

    waiting = iter(files)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="copy") as pool:
        while page := list(islice(waiting, PAGE)):
            for file, good in zip(page, pool.map(copied, page), strict=True):
                if not good:
                    yield file.object_key


def _media_type(key: str) -> str:
    guessed, _ = mimetypes.guess_type(key, strict=False)
    return guessed or "application/octet-stream"

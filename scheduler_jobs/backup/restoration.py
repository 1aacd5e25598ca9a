"""Restoring a backup into a fresh place: the files first, then the database in one step.

So an interrupted restoration left no database, and may be repeated: files that are there stay.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, text

from imagemill.db.database import Database
from imagemill.db.engines import read_only_address, sqlite_file
from imagemill.db.errors import DatabaseError, StorageDenied, UsageError, first_line
from imagemill.db.present_store import record_store
from imagemill.db.process.owned_folder import temporary_folder
from imagemill.db.process.whole_file import naming
from imagemill.db.queries.backups import contents, drop_tables, is_unused
from imagemill.db.schema import check_revision, migrate
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.backup import postgres
from imagemill.scheduler_jobs.backup.record import (
    DATABASES,
    OBJECTS,
    BackupRecord,
    read_manifest,
    read_record,
    sync_folder,
)
from imagemill.scheduler_jobs.backup.snapshot import copy_files

_UNFINISHED = ".restore-"
"""How the folder beside a SQLite file begins in which it is made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Restoration:
    """A restored backup: what its record says, and how much the database has.

    `missing` are the keys of files that neither the backup nor the store has as recorded:
    `verify --requeue` renders their images again.
    """

    record: BackupRecord
    revision: str
    jobs: int
    images: int
    objects: int
    missing: tuple[str, ...]


def restore(folder: Path, settings: Settings) -> Restoration:
    """Bring a backup into the database and the store that the settings name.

    Raises `UsageError`, with nothing changed, if the backup is not whole, is of another kind of
    database or of a newer schema, or if the database has been used.
    """
    record = read_record(folder)
    check_revision(record.revision)
    file = sqlite_file(settings.database_url.get_secret_value())
    kind = "postgresql" if file is None else "sqlite"
    if kind != record.database:
        raise UsageError(
            f"{folder} holds a {record.database} database, and IMAGEMILL_DATABASE_URL names a "
            f"{kind} one; a backup is restored into its own kind"
        )
    storage = open_storage(settings)
    if file is not None:
        _check_free(file)
        _check_sqlite(folder / DATABASES[kind], record)
        missing = tuple(_bring_files(folder, record, storage))
        _place_sqlite(folder / DATABASES[kind], file)
    else:
        major = _check_unused(settings, record)
        _check_archive(folder / DATABASES[kind], record, major)
        missing = tuple(_bring_files(folder, record, storage))
        _load_postgres(folder / DATABASES[kind], settings, major)
    database = Database.from_settings(settings)
    try:
        migrate(database)
        record_store(database, storage)
        with database.reading() as session:
            found = contents(session)
    finally:
        database.close()
    return Restoration(
        record=record,
        revision=found.revision,
        jobs=found.jobs,
        images=found.images,
        objects=found.objects,
        missing=missing,
    )


def _bring_files(folder: Path, record: BackupRecord, storage: Storage) -> Iterator[str]:
    """Copy the backup's files, or look for them in the store; yields the keys of those missing."""
    manifest = read_manifest(folder)
    if record.objects_copied:
        yield from copy_files(manifest, FolderStorage(folder / OBJECTS), storage)
        return
    for file in manifest:
        try:
            found = storage.stat(file.object_key)
        except StorageDenied as error:
            raise UsageError(
                f"{folder} has a list of its {record.objects:,} pictures and none of the pictures "
                "(it was made without --objects), so they must be in the store that "
                f"IMAGEMILL_STORAGE_URL or --home names, and there: {error}"
            ) from error
        if found is None or found.size != file.size_bytes:
            yield file.object_key


def _check_free(file: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        beside = file.with_name(file.name + suffix)
        if beside.exists() or beside.is_symlink():
            raise UsageError(f"{beside} is there already; a backup is restored into a fresh place")


def _check_sqlite(copy: Path, record: BackupRecord) -> None:
    """Raise `UsageError` unless the copy is a whole database of the schema that was recorded."""
    try:
        with closing(sqlite3.connect(read_only_address(copy), uri=True)) as opened:
            [said] = opened.execute("PRAGMA quick_check(1)").fetchone()
            [revision] = opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.DatabaseError, TypeError) as error:
        said, revision = error, record.revision
    if said != "ok" or revision != record.revision:
        why = f"schema {revision}, not {record.revision}" if said == "ok" else first_line(said)
        raise UsageError(f"{copy}: no whole database of ours ({why}); nothing was restored")


def _place_sqlite(copy: Path, file: Path) -> None:
    """Give the file its name in one step, and only if nobody has taken it meanwhile.

    It has this version's schema by then, so nothing is left to do where the rest is interrupted.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), temporary_folder(_UNFINISHED, within=file.parent) as folder:
        unfinished = folder / file.name
        with copy.open("rb") as source, unfinished.open("xb") as target:
            shutil.copyfileobj(source, target)
        database = Database(URL.create("sqlite", database=str(unfinished)).render_as_string())
        try:
            migrate(database)
        finally:
            database.close()
        with unfinished.open("rb") as target:
            os.fsync(target.fileno())
        try:
            os.link(unfinished, file)
        except FileExistsError:
            raise UsageError(f"{file} was made meanwhile; nothing was restored into it") from None
    sync_folder(file.parent)


def _check_archive(archive: Path, record: BackupRecord, major: int) -> None:
    """Raise `UsageError` unless the archive holds a database of the schema that was recorded."""
    try:
        revision = postgres.archived_revision(archive, at_least=major)
    except DatabaseError as error:
        raise UsageError(f"{archive}: {error}; nothing was restored") from error
    if revision != record.revision:
        why = f"schema {revision}, not {record.revision}"
        raise UsageError(f"{archive}: no whole database of ours ({why}); nothing was restored")


def _check_unused(settings: Settings, record: BackupRecord) -> int:
    """The version that `pg_restore` must have, if the database may be restored into."""
    database = Database.from_settings(settings)
    try:
        with database.reading() as session:
            if not is_unused(session):
                raise UsageError(
                    f"{database.url} has been used; a backup is restored into a fresh database "
                    "(a `restore` that was interrupted at its end has restored all of it: "
                    "`imagemill status` shows what is there)"
                )
            major = int(session.scalars(text("SHOW server_version_num")).one()) // 10_000
    finally:
        database.close()
    needed = max(major, record.dump_major or 0)
    postgres.check_program("pg_restore", needed)
    return needed


def _load_postgres(archive: Path, settings: Settings, major: int) -> None:
    database = Database.from_settings(settings)
    try:
        # What `migrate` has made in a new database would be in the archive's way.
        with database.writing() as session:
            if not is_unused(session):
                raise UsageError(f"{database.url} was used meanwhile; nothing was restored into it")
            drop_tables(session)
    finally:
        database.close()
    postgres.load(settings, archive, at_least=major)

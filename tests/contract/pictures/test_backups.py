"""`backup` and `restore` over both databases and both stores."""

import errno
import json
import os
import resource
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError, SchemaError, UsageError
from imagemill.db.queries.audit import audit
from imagemill.db.schema import head, migrate
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.storage.inputs import fetch_input, store_input
from imagemill.scheduler_jobs.backup import postgres, restoration, snapshot
from imagemill.scheduler_jobs.backup.record import BackupRecord, file_digest
from imagemill.scheduler_jobs.backup.restoration import restore
from imagemill.scheduler_jobs.backup.snapshot import Backup, make_backup
from imagemill.scheduler_jobs.cli.group import cli
from imagemill.scheduler_jobs.store_check import sweep, verify
from tests.contract.pictures.test_upkeep import fill, render
from tests.helpers.mill import Mill
from tests.helpers.servers.postgres import Postgres
from tests.helpers.servers.seaweedfs import Seaweed

PROMPTS = ["a", "b", "c"]


@pytest.fixture(params=["sqlite", "postgres"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that does not exist yet, or is empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fresh' / 'imagemill.sqlite3'}"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.create_database()


@pytest.fixture
def database(fresh_url: str, request: pytest.FixtureRequest) -> Database:
    """The database to back up, of the same kind as the fresh one."""
    kind = "sqlite" if fresh_url.startswith("sqlite") else "postgres"
    found: Database = request.getfixturevalue(f"{kind}_database")
    return found


@pytest.fixture
def settings(database: Database) -> Settings:
    return _settings(database.engine.url.render_as_string(hide_password=False), "unused")


def _settings(url: str, store: str, **more: str) -> Settings:
    return Settings(database_url=url, storage_url=store, **more)  # type: ignore[arg-type]


@pytest.fixture
def fresh(fresh_url: str, storage: Storage, request: pytest.FixtureRequest, tmp_path: Path):
    """The settings of a fresh database, and of a fresh store of the other's kind."""
    if storage.uri.startswith("s3://"):
        server: Seaweed = request.getfixturevalue("s3_server")
        url = f"{storage.uri}-restored"
        return _settings(fresh_url, url, s3_endpoint_url=server.endpoint)
    return _settings(fresh_url, str(tmp_path / "fresh" / "objects"))


def back_up(
    mill: Mill, storage: Storage, settings: Settings, to: Path, *, objects: bool = True
) -> Backup:
    return make_backup(mill.database, storage, settings, to, objects=objects)


def test_a_backup_with_its_pictures_comes_back_whole(
    mill: Mill, storage: Storage, settings: Settings, fresh: Settings, tmp_path: Path
) -> None:
    storage.probe()
    job = fill(mill, storage, "job", PROMPTS)
    waiting = mill.load("waiting", ["later"])
    given = store_input(storage, b"an init image")
    made = back_up(mill, storage, settings, tmp_path / "copy")
    assert made.missing == ()
    restored = restore(tmp_path / "copy", fresh)
    assert restored.missing == ()
    assert restored.revision == head()
    database, store = Database.from_settings(fresh), open_storage(fresh)
    again = Mill(database)
    with database.reading() as session:
        assert audit(session) == []
    result = verify(database, store, job, requeue=False)
    assert (result.checked, result.findings) == (len(PROMPTS), ())
    assert fetch_input(store, given) == b"an init image"
    assert again.counts(waiting).ready == 1
    assert sweep(database, store, older_than_seconds=-5, delete=False).strays == ()
    # It is a database to work on: ids go on where they were.
    later = fill(again, store, "after", ["new"])
    assert later > waiting
    database.close()


def test_what_is_done_after_the_backup_is_rendered_again(
    mill: Mill, storage: Storage, settings: Settings, fresh: Settings, tmp_path: Path
) -> None:
    """The store is still there, the database is that of the backup."""
    storage.probe()
    shift, job = mill.shift(), mill.load("job", PROMPTS)
    held = mill.claim(shift, limit=1)
    mill.begin(shift, [image.id for image in held])
    back_up(mill, storage, settings, tmp_path / "copy", objects=False)
    mill.give_back(shift)
    fill(mill, storage, "same", PROMPTS)
    mill.finish_jobs()
    assert mill.counts(job).done == len(PROMPTS)
    where = {"storage_url": storage.uri}
    restored = restore(tmp_path / "copy", fresh.model_copy(update=where))
    assert restored.missing == ()
    database = Database.from_settings(fresh)
    again = Mill(database)
    assert (again.counts(job).ready, again.counts(job).leased) == (2, 1)
    again.expire(shift)
    again.rescue()
    again.wait_out()
    strays = sweep(database, storage, older_than_seconds=-5, delete=False).strays
    assert len(strays) == len(PROMPTS), "their files are there, without rows"
    for _ in PROMPTS:  # a suspect is rendered alone
        render(again, storage)
    assert again.counts(job).done == len(PROMPTS)
    assert again.audit() == []
    assert verify(database, storage, job, requeue=False).findings == ()
    assert sweep(database, storage, older_than_seconds=-5, delete=False).strays == ()
    database.close()


def test_a_picture_that_went_meanwhile_is_named(
    mill: Mill, storage: Storage, settings: Settings, fresh: Settings, tmp_path: Path
) -> None:
    storage.probe()
    job = fill(mill, storage, "job", PROMPTS)
    key = next(item.key for item in storage.list())
    back_up(mill, storage, settings, tmp_path / "listed", objects=False)
    storage.delete(key)
    assert back_up(mill, storage, settings, tmp_path / "copied").missing == (key,)
    restored = restore(tmp_path / "copied", fresh)
    assert restored.missing == (key,)
    database = Database.from_settings(fresh)
    assert verify(database, open_storage(fresh), job, requeue=True).requeued == 1
    with database.reading() as session:
        assert audit(session) == []
    database.close()


def test_nothing_is_overwritten(
    mill: Mill, storage: Storage, settings: Settings, fresh: Settings, tmp_path: Path
) -> None:
    storage.probe()
    fill(mill, storage, "job", PROMPTS)
    back_up(mill, storage, settings, tmp_path / "copy")
    with pytest.raises(UsageError, match="is there already"):
        back_up(mill, storage, settings, tmp_path / "copy")
    with pytest.raises(UsageError, match="fresh"):
        restore(tmp_path / "copy", settings)
    restore(tmp_path / "copy", fresh)
    with pytest.raises(UsageError, match="fresh"):
        restore(tmp_path / "copy", fresh)


def test_a_database_that_was_only_migrated_is_fresh(
    postgres_database: Database, postgres_server: Postgres, folder_storage: Storage, tmp_path: Path
) -> None:
    mill = Mill(postgres_database)
    folder_storage.probe()
    fill(mill, folder_storage, "job", PROMPTS)
    url = postgres_database.engine.url.render_as_string(hide_password=False)
    settings = _settings(url, folder_storage.uri)
    back_up(mill, folder_storage, settings, tmp_path / "copy", objects=False)
    fresh = _settings(postgres_server.create_database(), folder_storage.uri)
    database = Database.from_settings(fresh)
    migrate(database)
    database.close()
    assert restore(tmp_path / "copy", fresh).missing == ()


@pytest.mark.parametrize("harm", ["no record", "a changed dump", "a newer schema", "another kind"])
def test_what_cannot_be_restored_changes_nothing(
    harm: str, sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path
) -> None:
    settings = _settings(str(sqlite_mill.database.engine.url), folder_storage.uri)
    back_up(sqlite_mill, folder_storage, settings, tmp_path / "copy", objects=False)
    record, url = tmp_path / "copy" / "backup.json", f"sqlite:///{tmp_path / 'new' / 'a.sqlite3'}"
    match harm:
        case "no record":
            record.unlink()
        case "a changed dump":
            with (tmp_path / "copy" / "database.sqlite3").open("ab") as file:
                file.write(b"x")
        case "a newer schema":
            record.write_text(json.dumps(json.loads(record.read_text()) | {"revision": "9999"}))
        case _:
            url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    with pytest.raises((UsageError, SchemaError)):
        restore(tmp_path / "copy", _settings(url, str(tmp_path / "new" / "objects")))
    assert not (tmp_path / "new").exists()


def test_a_list_of_pictures_is_restored_only_where_the_pictures_are(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path
) -> None:
    folder_storage.probe()
    fill(sqlite_mill, folder_storage, "job", PROMPTS)
    settings = _settings(str(sqlite_mill.database.engine.url), folder_storage.uri)
    back_up(sqlite_mill, folder_storage, settings, tmp_path / "copy", objects=False)
    fresh = _settings(f"sqlite:///{tmp_path / 'new.sqlite3'}", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"none of the pictures .* without --objects.* not exist"):
        restore(tmp_path / "copy", fresh)
    assert not (tmp_path / "new.sqlite3").exists()


def test_a_backup_is_private_and_holds_no_password(
    mill: Mill, storage: Storage, settings: Settings, tmp_path: Path
) -> None:
    storage.probe()
    fill(mill, storage, "job", PROMPTS)
    back_up(mill, storage, settings, tmp_path / "copy", objects=False)
    password = mill.database.engine.url.password
    for file in (tmp_path / "copy").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
        assert password is None or str(password).encode() not in file.read_bytes(), file.name
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700


def test_a_backup_that_fails_leaves_nothing(
    postgres_database: Database,
    folder_storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = postgres_database.engine.url.render_as_string(hide_password=False)
    settings = _settings(url.replace("postgresql+psycopg", "postgresql"), folder_storage.uri)
    broken = _settings(url.rpartition("/")[0] + "/none", folder_storage.uri)
    with pytest.raises(DatabaseError, match="pg_dump"):
        make_backup(postgres_database, folder_storage, broken, tmp_path / "a", objects=False)
    monkeypatch.setattr("imagemill.scheduler_jobs.backup.postgres._major", lambda _: 9)
    with pytest.raises(UsageError, match="pg_dump of PostgreSQL"):
        make_backup(postgres_database, folder_storage, settings, tmp_path / "b", objects=False)
    assert not list(tmp_path.glob("[ab]"))


def test_the_commands(sqlite_mill: Mill, tmp_path: Path) -> None:
    home, new = tmp_path / "home", tmp_path / "new"
    (home / "objects").mkdir(parents=True)
    with (
        closing(sqlite3.connect(home / "imagemill.sqlite3")) as target,
        closing(sqlite3.connect(str(sqlite_mill.database.file))) as source,
    ):
        source.backup(target)

    def run(*words: str | Path) -> Result:
        return CliRunner().invoke(cli, [*map(str, words)])

    done = run("--home", home, "backup", tmp_path / "copy", "--objects")
    assert done.exit_code == 0, done.output
    assert "0 jobs, 0 images, 0 files (copied), as of " in done.output
    assert done.output.endswith(" UTC\n"), "the time is written as in other commands"
    refused = run("--home", home, "backup", home / "objects" / "copy")
    assert refused.exit_code == 2, "a backup inside of the store would be swept"
    done = run("--home", new, "restore", tmp_path / "copy", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output.splitlines()[-1])
    assert (answer["revision"], answer["missing"]) == (head(), [])
    shutil.rmtree(tmp_path / "copy")
    assert run("--home", new, "jobs").exit_code == 0


def _replaced(folder: Path, name: str, body: bytes) -> None:
    """Change a file of a backup, and its digest in the record: its maker would see no damage."""
    (folder / name).write_bytes(body)
    record = json.loads((folder / "backup.json").read_bytes())
    record["digests"][name] = file_digest(folder / name)
    (folder / "backup.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", True),
        ("at", "yesterday"),
        ("at", None),
        ("revision", []),
        ("jobs", "x"),
        ("objects", None),
        ("objects_copied", "no"),
        ("missing", 1.5),
        ("dump_major", "x"),
        ("digests", []),
        ("more", 1),
    ],
)
def test_a_record_with_a_wrong_field_restores_nothing(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path, field: str, value: object
) -> None:
    place, fresh = _changed_backup(sqlite_mill, folder_storage, tmp_path)
    record = json.loads((place / "backup.json").read_bytes())
    (place / "backup.json").write_text(json.dumps(record | {field: value}))
    with pytest.raises(UsageError, match=r"not a record of a backup|made by a newer"):
        restore(place, fresh)
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("objects.jsonl", b"junk\n", "line 1 names no stored file"),
        ("objects.jsonl", b'{"object_key": 5}\n', "line 1 names no stored file"),
        (
            "objects.jsonl",
            b'{"object_key": "../../x", "sha256": "a", "size_bytes": 1}\n',
            "line 1 names no stored file",
        ),
        ("database.sqlite3", b"", "no such table"),
        ("database.sqlite3", b"junk" * 1000, "not a database"),
    ],
)
def test_a_backup_whose_files_were_changed_restores_nothing(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path, name: str, body: bytes, says: str
) -> None:
    place, fresh = _changed_backup(sqlite_mill, folder_storage, tmp_path)
    _replaced(place, name, body)
    with pytest.raises(UsageError, match=says):
        restore(place, fresh)
    assert not (tmp_path / "fresh").exists()


def test_a_backup_without_its_folder_of_pictures_is_damaged(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path
) -> None:
    place, fresh = _changed_backup(sqlite_mill, folder_storage, tmp_path)
    shutil.rmtree(place / "objects")
    with pytest.raises(UsageError, match="objects: missing"):
        restore(place, fresh)
    assert not (tmp_path / "fresh").exists()


def _changed_backup(mill: Mill, storage: Storage, folder: Path) -> tuple[Path, Settings]:
    """A whole backup, to be changed, and the settings of a fresh place."""
    storage.probe()
    fill(mill, storage, "job", PROMPTS)
    url = mill.database.engine.url.render_as_string(hide_password=False)
    back_up(mill, storage, _settings(url, "unused"), folder / "backup")
    fresh = folder / "fresh"
    return folder / "backup", _settings(f"sqlite:///{fresh / 'db.sqlite3'}", str(fresh / "objects"))


def _interrupted(mill: Mill, storage: Storage, settings: Settings, to: Path) -> None:
    """Make a backup that is killed when all is written but its record."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(snapshot, "write_record", lambda *_: os._exit(0))
                back_up(mill, storage, settings, to)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_backup_that_was_killed_is_made_again_by_the_same_command(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path
) -> None:
    folder_storage.probe()
    fill(sqlite_mill, folder_storage, "job", PROMPTS)
    settings = _settings(str(sqlite_mill.database.engine.url), folder_storage.uri)
    _interrupted(sqlite_mill, folder_storage, settings, tmp_path / "copy")
    assert list((tmp_path / "copy" / "objects").rglob("*.png"))
    assert not (tmp_path / "copy" / "backup.json").exists()
    made = back_up(sqlite_mill, folder_storage, settings, tmp_path / "copy")
    assert made.record.objects == len(PROMPTS)
    names = {"backup.json", "database.sqlite3", "objects.jsonl", "objects"}
    assert {file.name for file in (tmp_path / "copy").iterdir()} == names


@pytest.mark.parametrize("beside", ["notes.txt", "backup.json"])
def test_a_folder_with_anything_else_in_it_is_no_interrupted_backup(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path, beside: str
) -> None:
    settings = _settings(str(sqlite_mill.database.engine.url), folder_storage.uri)
    folder_storage.probe()
    _interrupted(sqlite_mill, folder_storage, settings, tmp_path / "copy")
    (tmp_path / "copy" / beside).touch()
    before = sorted((tmp_path / "copy").rglob("*"))
    with pytest.raises(UsageError, match="is there already"):
        back_up(sqlite_mill, folder_storage, settings, tmp_path / "copy")
    assert sorted((tmp_path / "copy").rglob("*")) == before


def test_a_store_s_folder_is_no_interrupted_backup(sqlite_mill: Mill, tmp_path: Path) -> None:
    """Its only content is a folder with the same name as that of a backup's pictures."""
    storage = FolderStorage(tmp_path / "data" / "objects")
    fill(sqlite_mill, storage, "job", PROMPTS)
    settings = _settings(str(sqlite_mill.database.engine.url), storage.uri)
    with pytest.raises(UsageError, match="is there already"):
        back_up(sqlite_mill, storage, settings, tmp_path / "data")
    assert len(list(storage.list())) == len(PROMPTS)


def test_a_backup_that_is_still_written_is_left_alone(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(str(sqlite_mill.database.engine.url), folder_storage.uri)
    folder_storage.probe()
    write = snapshot.write_record

    def second(folder: Path, record: BackupRecord) -> None:
        with pytest.raises(UsageError, match="another backup is being written there"):
            back_up(sqlite_mill, folder_storage, settings, tmp_path / "copy")
        write(folder, record)

    monkeypatch.setattr(snapshot, "write_record", second)
    back_up(sqlite_mill, folder_storage, settings, tmp_path / "copy")
    assert (tmp_path / "copy" / "backup.json").is_file()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 64 KiB: as on a full disk, for whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_a_backup_and_a_restoration_with_one_error_that_names_the_file(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place, fresh = _changed_backup(sqlite_mill, folder_storage, tmp_path)
    settings = _settings(str(sqlite_mill.database.engine.url), folder_storage.uri)
    request.getfixturevalue("full_disk")
    with pytest.raises(
        DatabaseError, match=r"second/database\.sqlite3: can't be copied: .*(full|I/O)"
    ):
        back_up(sqlite_mill, folder_storage, settings, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    with pytest.raises(OSError, match=r"db\.sqlite3") as full:
        restore(place, fresh)
    assert full.value.errno == errno.EFBIG
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["objects"]


def test_a_restoration_that_was_killed_is_done_by_the_same_command(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path
) -> None:
    place, fresh = _changed_backup(sqlite_mill, folder_storage, tmp_path)
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(restoration, "migrate", lambda _: os._exit(0))
                restore(place, fresh)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert not (tmp_path / "fresh" / "db.sqlite3").exists()
    assert restore(place, fresh).jobs == 1
    assert {path.name for path in (tmp_path / "fresh").iterdir()} == {"objects", "db.sqlite3"}


def test_what_is_told_is_what_was_restored(
    sqlite_mill: Mill, folder_storage: Storage, tmp_path: Path
) -> None:
    place, _ = _changed_backup(sqlite_mill, folder_storage, tmp_path)
    record = json.loads((place / "backup.json").read_bytes())
    (place / "backup.json").write_text(json.dumps(record | {"images": 700, "jobs": 0}))
    words = ["--home", str(tmp_path / "home"), "restore", str(place)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert f"restored 1 job, {len(PROMPTS)} images, {len(PROMPTS)} files" in done.stdout
    assert done.stderr.splitlines() == [
        "warning: backup.json says 0 jobs, its database has 1",
        f"warning: backup.json says 700 images, its database has {len(PROMPTS)}",
    ]


@pytest.mark.parametrize("harm", ["junk", "cut", "another database", "another schema"])
def test_an_archive_that_was_changed_restores_nothing(
    postgres_database: Database,
    postgres_server: Postgres,
    folder_storage: Storage,
    tmp_path: Path,
    harm: str,
) -> None:
    folder_storage.probe()
    mill, place = Mill(postgres_database), tmp_path / "copy"
    fill(mill, folder_storage, "job", PROMPTS)
    url = postgres_database.engine.url.render_as_string(hide_password=False)
    back_up(mill, folder_storage, _settings(url, folder_storage.uri), place)
    fresh = _settings(postgres_server.create_database(), str(tmp_path / "fresh"))
    archive = (place / "database.dump").read_bytes()
    if harm == "junk":
        _replaced(place, "database.dump", b"junk" * 1000)
    elif harm == "cut":
        _replaced(place, "database.dump", archive[: len(archive) // 10])
    else:
        other = Database(postgres_server.create_database())
        with other.writing() as session:
            session.execute(text("CREATE TABLE alembic_version (version_num text)"))
            if harm == "another schema":
                session.execute(text("INSERT INTO alembic_version VALUES ('0001')"))
            else:
                session.execute(text("ALTER TABLE alembic_version RENAME TO others"))
        url = other.engine.url.render_as_string(hide_password=False)
        other.close()
        major = json.loads((place / "backup.json").read_bytes())["dump_major"]
        with other.reading() as session:
            found = session.scalars(text("SELECT pg_export_snapshot()")).one()
            postgres.dump(
                _settings(url, "x"), tmp_path / "other.dump", snapshot=found, server_major=major
            )
        other.close()
        _replaced(place, "database.dump", (tmp_path / "other.dump").read_bytes())
    with pytest.raises(UsageError, match="nothing was restored"):
        restore(place, fresh)
    assert not (tmp_path / "fresh").exists()

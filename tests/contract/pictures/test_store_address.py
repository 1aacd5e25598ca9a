"""Where a picture is: the store's present address and its key, whatever it was at render time."""

import sqlite3
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from imagemill.db.database import Database
from imagemill.db.present_store import record_named_store, record_store
from imagemill.db.queries.pictures.image_reports import ImageFilter, find_image, list_images
from imagemill.db.schema import _config, migrate
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.folder import FolderStorage
from tests.helpers.mill import Mill

ODD = ["pictures", "my pictures", "größe 100% #1!", "名前:'q' \"+\" \U0001f600", "a;b&c=[d]~_.-"]


def one_done(mill: Mill) -> str:
    mill.load("done", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    with mill.database.reading() as session:
        key = session.execute(text("SELECT object_key FROM objects")).scalar_one()
    return str(key)


def uris(database: Database) -> set[str | None]:
    """The picture's address from everybody who tells it: the view, `images` and `show`."""
    with database.reading() as session:
        listed = list_images(session, ImageFilter(), limit=10)
        shown = find_image(session, listed[0].id).file
        view = session.execute(text("SELECT uri FROM dataset_images")).scalar_one()
    assert shown is not None
    return {view, listed[0].uri, shown.uri}


def bucket(url: str) -> Settings:
    return Settings(storage_url=url, s3_endpoint_url="http://127.0.0.1:1")


def test_a_bucket_that_is_reached_by_another_name(mill: Mill) -> None:
    key = one_done(mill)
    for url in ("s3://old/set", "s3://new"):
        record_store(mill.database, open_storage(bucket(url)))
        assert uris(mill.database) == {f"{url}/{key}"}
    record_named_store(mill.database, bucket("s3://named"))
    assert uris(mill.database) == {f"s3://named/{key}"}


def test_a_default_that_nobody_named_is_no_address(mill: Mill) -> None:
    key = one_done(mill)
    record_named_store(mill.database, Settings())
    assert uris(mill.database) == {f"file:///{key}"}, "as it was recorded with the object"


def test_on_postgres_a_known_store_spares_each_object_its_own_address(mill: Mill) -> None:
    job_id = mill.load("job", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    record_store(mill.database, open_storage(bucket("s3://new")))
    mill.complete(shift, mill.claim(shift, limit=1))
    with mill.database.reading() as session:
        own = session.execute(text("SELECT object_key, uri FROM objects ORDER BY id")).all()
        readers = text("SELECT uri FROM dataset_images WHERE job_id = :job ORDER BY object_key")
        shown = session.scalars(readers, {"job": job_id}).all()
    (first, before), (second, after) = own
    assert before == f"file:///{first}", "nobody knew the store when it was recorded"
    assert after == (f"file:///{second}" if mill.database.is_sqlite else "")
    assert shown == [f"s3://new/{key}" for key in sorted([first, second])]


def test_an_address_that_is_known_is_not_written_again(sqlite_database: Database) -> None:
    assert sqlite_database.file is not None
    store = FolderStorage(sqlite_database.file.parent / "objects")
    record_store(sqlite_database, store)
    locked = sqlite3.connect(sqlite_database.file, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    record_store(sqlite_database, store)
    locked.close()


@pytest.mark.parametrize("below", ["objects", "", "deep/my objects"])
@pytest.mark.parametrize("name", ODD)
def test_a_folder_that_was_moved(
    sqlite_database: Database, tmp_path: Path, name: str, below: str
) -> None:
    key = one_done(Mill(sqlite_database))
    file = sqlite_database.file
    assert file is not None
    record_store(sqlite_database, FolderStorage(file.parent / below))
    sqlite_database.close()
    home = tmp_path / "there" / name
    home.mkdir(parents=True)
    moved = file.replace(home / "x.sqlite3")
    wanted = (home / below / key).as_uri()
    database = Database(f"sqlite:///{moved}")
    assert uris(database) == {wanted}
    database.close()
    for how in ("mode=ro", "immutable=1"):
        reader = sqlite3.connect(f"{moved.as_uri()}?{how}", uri=True)
        assert reader.execute("SELECT uri FROM dataset_images").fetchone() == (wanted,)
        reader.close()


def test_a_store_beside_the_database_stays_where_it_is(
    sqlite_database: Database, tmp_path: Path
) -> None:
    key = one_done(Mill(sqlite_database))
    store = tmp_path.parent / "elsewhere"
    record_store(sqlite_database, FolderStorage(store))
    assert uris(sqlite_database) == {(store / key).as_uri()}


def test_a_store_that_is_a_symbolic_link_beside_its_database(
    sqlite_database: Database, tmp_path: Path
) -> None:
    key = one_done(Mill(sqlite_database))
    (tmp_path / "objects").symlink_to(tmp_path.parent / "large disk")
    record_store(sqlite_database, FolderStorage(tmp_path / "objects"))
    assert uris(sqlite_database) == {(tmp_path / "objects" / key).as_uri()}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_database_of_the_version_before(kind: str, request: pytest.FixtureRequest) -> None:
    """It had no address: what was recorded counts until somebody says where the store is."""
    database: Database = request.getfixturevalue(f"{kind}_database")
    key = one_done(Mill(database))
    with database.writing() as session:
        for view in ("dataset_failures", "dataset_jobs"):
            session.execute(text(f"DROP VIEW {view}"))
        for column in (
            "pinned_as",
            "pinned_job_id",
            "pinned_model",
            "labels",
            "memory_bytes",
            "tuning",
        ):
            session.execute(text(f"ALTER TABLE workers DROP COLUMN {column}"))
        for column in ("max_workers", "owner", "weight", "needs", "deadline_at"):
            session.execute(text(f"ALTER TABLE jobs DROP COLUMN {column}"))
        session.execute(text("ALTER TABLE rows DROP COLUMN prompt_at"))
        if kind == "postgres":
            session.execute(
                text(
                    "ALTER TABLE objects"
                    " DROP CONSTRAINT ex_objects_object_key,"
                    " ADD CONSTRAINT uq_objects_object_key UNIQUE (object_key),"
                    " DROP CONSTRAINT ex_objects_request_key,"
                    " ADD CONSTRAINT uq_objects_request_key UNIQUE (request_key)"
                )
            )
        session.execute(text("DROP INDEX ix_shifts_lost"))
        session.execute(text("DROP INDEX ix_attempts_done"))
        session.execute(text("ALTER TABLE attempts DROP COLUMN transaction_id"))
        session.execute(text("DROP VIEW dataset_images"))
        session.execute(text("DROP TABLE store"))
        session.execute(text("DROP VIEW dataset_scores"))
        tables = ("exports", "scores", "score_failures", "score_work", "tags")
        tables += ("api_keys", "api_requests", "api_files", "uploads", "memory_needs")
        tables += ("fastest_precisions",)
        for table in (
            *tables,
            "job_labels",
            "job_notes",
            "removed_jobs",
            "removed_objects",
            "job_seats",
            "owners",
            *("notifications", "job_watches", "job_webhooks"),
        ):
            session.execute(text(f"DROP TABLE {table}"))
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        session.execute(text("CREATE VIEW dataset_images AS " + _view_of_0001()))
    with database.engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")  # nothing to be done: that is what it is
    migrate(database)
    assert uris(database) == {f"file:///{key}"}
    record_store(database, open_storage(bucket("s3://new")))
    assert uris(database) == {f"s3://new/{key}"}


def _view_of_0001() -> str:
    from importlib import import_module

    first = import_module("imagemill.db.migrations.versions.0001_first_schema")
    return str(first._DATASET_IMAGES).partition(" AS\n")[2]

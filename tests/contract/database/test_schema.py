"""The schema: migrations make what the models say, once, and versions know each other."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Connection, inspect, select, text, update
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

import imagemill
from imagemill.db import schema
from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError, SchemaError
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.schema import check_schema, ensure_schema, head, migrate
from imagemill.db.tables import Base, JobSeat, Object, RemovedJob, RemovedObject
from imagemill.db.tables.transactions import TransactionId
from imagemill.db.views import views
from imagemill.db.views.columns import VIEWS
from tests.helpers.mill import Mill, spec

if TYPE_CHECKING:
    from tests.helpers.servers.postgres import Postgres

PROMISED = {
    *("image_id", "job_id", "job_name", "row_number", "sample_index", "state", "outcome"),
    *("prompt", "seed", "object_key", "uri", "sha256", "pixels_sha256"),
    *("model", "width", "height", "steps", "guidance_scale", "sampler", "negative_prompt"),
}


def normal(sql: str | None) -> str:
    """SQL without what Postgres adds when it gives a definition back."""
    sql = re.sub(r"::[a-z ]+(\[\])?", "", sql or "").lower()
    sql = re.sub(r"[\s()\"]+", "", sql).replace("<>", "!=")
    return re.sub(r"=anyarray\[(.*?)\]", r"in\1", sql)


@pytest.fixture
def connection(database: Database, monkeypatch: pytest.MonkeyPatch):
    # SQLAlchemy has no type of its own for it, and would say so each time.
    monkeypatch.setitem(ischema_names, "xid8", TransactionId)
    with database.engine.connect() as connection:
        yield connection


def test_migrations_make_the_models_tables(connection: Connection) -> None:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": False}
    )
    differences = [
        each
        for each in compare_metadata(context, Base.metadata)
        if not (each[0] == "remove_table" and each[1].name == "schema_compatibility")
    ]
    if connection.dialect.name == "postgresql":
        # Alembic takes SQLite's unique constraints for all; the next test sees what is here.
        found = sorted((what, *unique.columns.keys()) for what, unique in differences)
        assert found == [("add_constraint", "object_key"), ("add_constraint", "request_key")]
    else:
        assert differences == []


@pytest.mark.parametrize("column", ["object_key", "request_key"])
def test_no_two_objects_have_the_same_key(mill: Mill, column: str) -> None:
    job_id = mill.load("job", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=2))
    with mill.database.reading() as session:
        keys = session.scalars(select(getattr(Object, column))).all()
    assert len(set(keys)) == len(mill.images(job_id)) == 2
    with pytest.raises(IntegrityError, match=column), mill.database.writing() as session:
        session.execute(update(Object).values({column: keys[0]}))


def test_migrations_make_the_models_checks(connection: Connection) -> None:
    inspector = inspect(connection)
    for table in Base.metadata.sorted_tables:
        wanted = {
            str(each.name): normal(str(each.sqltext))
            for each in table.constraints
            if isinstance(each, CheckConstraint)
        }
        found = {
            each["name"]: normal(each["sqltext"])
            for each in inspector.get_check_constraints(table.name)
        }
        assert found == wanted, table.name


def test_migrations_make_the_models_indexes(connection: Connection) -> None:
    """Their columns, order and predicates: a claim without its partial index would crawl."""
    inspector = inspect(connection)
    dialect = connection.dialect.name
    partial = 0
    for table in Base.metadata.sorted_tables:
        wanted = {
            index.name: (
                [column.name for column in index.columns],
                bool(index.unique),
                normal(str(index.dialect_options[dialect]["where"])),
                index.dialect_options[dialect].get("using") or None,
            )
            for index in table.indexes
        }
        found = {
            index["name"]: (
                index["column_names"],
                bool(index["unique"]),
                normal(str(index.get("dialect_options", {}).get(f"{dialect}_where"))),
                index.get("dialect_options", {}).get(f"{dialect}_using"),
            )
            for index in inspector.get_indexes(table.name)
            if not index.get("duplicates_constraint")
        }
        assert found == wanted, table.name
        partial += sum(where != "none" for _, _, where, _ in found.values())
    assert partial == 14


def test_migrations_set_the_models_server_defaults(connection: Connection) -> None:
    inspector = inspect(connection)
    for table in Base.metadata.sorted_tables:
        for column in inspector.get_columns(table.name):
            wanted = table.columns[column["name"]].server_default is not None
            has = column["default"] is not None and not str(column["default"]).startswith("nextval")
            assert has == wanted, f"{table.name}.{column['name']}"


def test_migrations_make_todays_views(connection: Connection) -> None:
    """Migrations have texts of their own, so that a later view changes no history."""
    dialect = connection.dialect.name
    todays = {
        "dataset_images": views.dataset_images(dialect),
        "dataset_jobs": views.dataset_jobs(dialect),
        "dataset_failures": views.DATASET_FAILURES,
        "dataset_scores": views.DATASET_SCORES,
    }
    assert set(todays) == set(VIEWS)
    for name, query in todays.items():
        connection.exec_driver_sql(
            f"CREATE VIEW todays AS {query}", execution_options={"no_parameters": True}
        )
        inspector = inspect(connection)  # a new one each time: it remembers what it was told
        migrated, made = (inspector.get_view_definition(each) for each in (name, "todays"))
        assert _body(migrated) == _body(made), name
        connection.exec_driver_sql("DROP VIEW todays")


def _body(definition: str | None) -> list[str]:
    """The words of a view's query; SQLite gives the statement that made it."""
    text = re.sub(r"(?i)^create view \w+ as", "", (definition or "").strip())
    return re.findall(r"\w+|\S", text)


def test_migrations_never_read_what_changes_later() -> None:
    for module in (Path(schema.__file__).parent / "migrations").rglob("*.py"):
        text = module.read_text()
        assert "imagemill.db.views.views" not in text, module.name
        assert "imagemill.db.views import" not in text, module.name


def test_the_view_has_the_promised_columns(mill: Mill) -> None:
    done = mill.load("done", ["a", "b"])
    shift = mill.shift()
    held = mill.claim(shift, limit=1)
    mill.complete(shift, held)
    with mill.database.reading() as session:
        rows = session.execute(text("SELECT * FROM dataset_images ORDER BY image_id")).mappings()
        first, second = rows.all()
    assert set(first) >= PROMISED
    assert (first["job_id"], first["job_name"], first["row_number"]) == (done, "done", 1)
    assert (first["state"], first["outcome"], first["prompt"]) == ("done", "ok", "a")
    assert first["sha256"]
    assert (second["state"], second["object_key"], second["row_number"]) == ("ready", None, 2)
    assert mill.database.run(lifecycle.finish_jobs) == 0


def _migrate(url: str) -> str:
    database = Database(url)
    try:
        return migrate(database)
    finally:
        database.close()


def test_migrating_twice_or_at_once_is_safe(database_url: str) -> None:
    # Forks of a process without threads and connections, which has imported this module.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(3, mp_context=processes) as pool:
        running = [pool.submit(_migrate, database_url) for _ in range(3)]
        assert [each.result(400) for each in running] == [head()] * 3
    assert _migrate(database_url) == head()
    database = Database(database_url)
    check_schema(database)
    database.close()


def test_migrations_are_known_by_the_names_of_their_files() -> None:
    scripts = ScriptDirectory.from_config(schema._config())
    assert {script.revision for script in scripts.walk_revisions()} == schema._known_revisions()
    assert scripts.get_current_head() == head()


def test_an_empty_database_wants_a_migration(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(SchemaError, match=r"run `imagemill migrate`$"):
        check_schema(database)
    if database.file is not None:
        assert not database.file.exists(), "a check must not create a database"
        database.file.touch()
        with pytest.raises(SchemaError, match=r"has no imagemill schema; run `imagemill migrate`$"):
            check_schema(database)
    database.close()


def set_revision(database: Database, revision: str, *, works_with: str | None) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
        if works_with is None:
            session.execute(text("DROP TABLE schema_compatibility"))
        else:
            session.execute(
                text("UPDATE schema_compatibility SET oldest_revision = :w"), {"w": works_with}
            )


def test_a_newer_schema_that_only_added_is_accepted(database: Database) -> None:
    set_revision(database, "9999", works_with=head())
    check_schema(database)


@pytest.mark.parametrize("works_with", ["9000", None])
def test_a_newer_schema_that_changed_is_refused(database: Database, works_with: str | None) -> None:
    set_revision(database, "9999", works_with=works_with)
    with pytest.raises(SchemaError, match=r"is at schema 9999, .* upgrade imagemill$"):
        check_schema(database)


def at_revision(database: Database, revision: str) -> None:
    """An empty database as the version left it whose newest migration this was."""
    config = schema._config()
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_an_older_schema_wants_a_migration(database_url: str) -> None:
    database = Database(database_url)
    at_revision(database, "0001")
    wanted = rf"is at schema 0001, .* needs {head()}; run `imagemill migrate`$"
    with pytest.raises(SchemaError, match=wanted):
        check_schema(database)
    database.close()


def test_an_older_file_is_upgraded_where_it_is_opened(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    at_revision(database, "0001")
    database.close()
    with imagemill.open(sqlite_url) as mill:
        assert list(mill.jobs()) == []
    check_schema(Database(sqlite_url))


def test_an_older_server_is_upgraded_by_its_operator_alone(postgres_url: str) -> None:
    database = Database(postgres_url)
    at_revision(database, "0001")
    with pytest.raises(SchemaError, match=r"run `imagemill migrate`$"):
        ensure_schema(database)
    database.close()


def lend_columns(database: Database, *names: str) -> list[tuple[str, str]]:
    """Add the columns that today's code writes in these tables, and say which those are."""
    there = inspect(database.engine)
    missing = [
        column
        for name in names
        for column in Base.metadata.tables[name].columns
        if column.name not in {each["name"] for each in there.get_columns(name)}
    ]
    with database.writing() as session:
        for column in missing:
            definition = CreateColumn(column).compile(dialect=database.engine.dialect)
            session.execute(text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))
    return [(column.table.name, column.name) for column in missing]


def test_an_old_database_goes_on_with_its_images_and_takes_large_seeds(database_url: str) -> None:
    """What was submitted before is read as it was, under its own request key."""
    database = Database(database_url)
    at_revision(database, "0001")
    later = [RemovedJob.__table__, RemovedObject.__table__, JobSeat.__table__]
    Base.metadata.create_all(database.engine, later)  # which today's code asks
    columns = lend_columns(database, "jobs", "workers", "rows")
    mill = Mill(database)
    old = mill.load("old", [spec("old", seed=0), spec("old", seed=2**63 - 1)])
    shift = mill.shift()
    mill.give_back(shift, [mill.claim(shift, limit=1)[0].id])
    mill.cancel(mill.load("over", ["over"]))
    keys = [image.request_key for image in mill.images(old)]
    Base.metadata.drop_all(database.engine, later)
    with database.writing() as session:
        for table, column in columns:
            session.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
    migrate(database)
    assert mill.events(3) == ["cancelled"]
    check_schema(database)
    assert [image.request_key for image in mill.images(old)] == keys
    mill.load("new", [spec("new", seed=2**63), spec("new", seed=2**64 - 1)])
    claimed = mill.claim(mill.shift(), limit=9)
    assert [each.problem for each in claimed] == [None] * len(claimed)
    assert all(each.spec.request_key() == each.request_key for each in claimed)
    seeds = [0, 2**63 - 1, 2**63, 2**64 - 1]
    with database.reading() as session:
        shown = session.scalars(
            text("SELECT seed FROM dataset_images WHERE state != 'cancelled' ORDER BY image_id")
        ).all()
    assert [str(seed) for seed in shown] == [str(seed) for seed in seeds]
    database.close()


def test_whoever_read_the_view_reads_it_after_the_migration(
    postgres_server: "Postgres",
) -> None:
    """Its grants are kept, and a view that somebody made of it goes on."""
    url = postgres_server.create_database()
    database = Database(url)
    at_revision(database, "0001")
    role = "reader_of_seeds"
    with database.writing() as session:
        session.execute(text(f"CREATE ROLE {role}"))
        session.execute(text(f"GRANT SELECT ON dataset_images TO {role}"))
        session.execute(text("CREATE VIEW theirs AS SELECT seed FROM dataset_images"))
    migrate(database)
    with database.writing() as session:
        for view, may in (("dataset_images", True), ("images", False)):
            question = text(f"SELECT has_table_privilege('{role}', '{view}', 'SELECT')")
            assert session.scalar(question) is may
        assert session.execute(text("SELECT * FROM theirs")).all() == []
        session.execute(text(f"DROP OWNED BY {role}"))
        session.execute(text(f"DROP ROLE {role}"))
    database.close()
    postgres_server.drop_database(url)


def test_every_statement_of_the_schema_compiles_for_both() -> None:
    from sqlalchemy.dialects import postgresql, sqlite

    for dialect in (postgresql.dialect(), sqlite.dialect()):
        for table in Base.metadata.sorted_tables:
            assert str(CreateTable(table).compile(dialect=dialect))
            for index in table.indexes:
                assert str(CreateIndex(index).compile(dialect=dialect))


def test_a_wrong_state_fails_in_the_database(mill: Mill) -> None:
    from sqlalchemy.exc import IntegrityError

    mill.load("job", ["a"])
    for change in (
        "state = 'gone'",
        "state = 'leased'",
        "state = 'done'",
        "state = 'dead'",
        "begun_at = '2026-01-01 00:00:00.000000+00'",
    ):
        with pytest.raises(IntegrityError), mill.database.writing() as session:
            session.execute(text(f"UPDATE images SET {change}"))


def test_a_folder_that_is_missing_is_one_clear_line(tmp_path: Path) -> None:
    from imagemill.db.errors import DatabaseError

    database = Database(f"sqlite:///{tmp_path / 'missing' / 'x.sqlite3'}")
    with pytest.raises(DatabaseError, match=r"x\.sqlite3: unable to open database file$"):
        database.run(lambda session: session.execute(text("SELECT 1")), patience=0)


def test_a_database_that_does_not_answer_is_no_traceback() -> None:
    with pytest.raises(DatabaseError, match="refused"):
        check_schema(Database("postgresql://app:secret@127.0.0.1:1/nowhere"))

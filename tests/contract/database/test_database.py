"""Opening databases, and transactions that survive a lost connection, a lock or a doubt."""

import logging
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import exc, make_url, text

from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError, SettingsError
from tests.helpers.mill import Mill

SECRET = "s3cret"


def statement(sql: str):
    return lambda session: session.execute(text(sql))


# Opening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a SQLAlchemy URL"),
        (f"host/db?password={SECRET}", "not a SQLAlchemy URL"),
        (f"mysql://root:{SECRET}@host/db", "mysql is not supported; expected postgresql or sqlite"),
    ],
)
def test_what_is_no_database_of_ours_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        Database(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_postgres_gets_our_driver(scheme: str) -> None:
    database = Database(f"{scheme}://me:{SECRET}@host/name?sslmode=disable&password={SECRET}")
    assert database.engine.dialect.driver == "psycopg"
    assert database.url == "postgresql+psycopg://me:***@host/name"


def test_a_password_in_the_url_is_never_shown(postgres_url: str) -> None:
    wrong = make_url(postgres_url).set(password=SECRET).render_as_string(hide_password=False)
    with pytest.raises(DatabaseError, match="password authentication failed") as refused:
        Database(wrong).run(statement("SELECT 1"))
    assert SECRET not in str(refused.value)


# Waiting -----------------------------------------------------------------------------------


def test_a_database_that_is_away_is_waited_for_with_a_message(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    away = make_url(postgres_url).set(port=1).render_as_string(hide_password=False)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(DatabaseError, match="refused"):
        Database(away).run(statement("SELECT 1"), patience=1)
    assert time.monotonic() - started < 120
    assert any("waiting for the database" in message for message in caplog.messages)
    assert str(make_url(postgres_url).password) not in caplog.text


def test_what_waiting_cannot_mend_fails_at_once(postgres_url: str) -> None:
    missing = make_url(postgres_url).set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(DatabaseError, match="does not exist"):
        Database(missing).run(statement("SELECT 1"), patience=3600)


def test_a_bug_is_not_waited_for(database: Database) -> None:
    with pytest.raises(exc.IntegrityError):
        database.run(
            statement("INSERT INTO images (id) VALUES (1)"),
            patience=3600,
        )
    with pytest.raises((exc.ProgrammingError, DatabaseError), match="nothing_like_it"):
        database.run(statement("SELECT * FROM nothing_like_it"), patience=3600)


def test_a_connection_cut_in_a_transaction_means_doing_it_again(
    postgres_database: Database,
) -> None:
    mill = Mill(postgres_database)
    job = mill.load("job", ["a", "b", "c"])
    shift = mill.shift()
    tries = []

    def work(session):
        from imagemill.db.queries.work import claims

        held = claims.claim(session, shift_id=shift, group_id=1, route="default", limit=2)
        tries.append(held)
        if len(tries) == 1:
            victim = session.scalar(text("SELECT pg_backend_pid()"))
            kill = text("SELECT pg_terminate_backend(:pid)").bindparams(pid=victim)
            postgres_database.run(lambda other: other.execute(kill))
        return held

    assert len(postgres_database.run(work)) == 2
    assert len(tries) == 2
    assert (mill.counts(job).leased, mill.counts(job).ready) == (2, 1)
    assert mill.audit() == []


def test_a_commit_whose_answer_is_lost_changes_things_once(database: Database) -> None:
    """The commit succeeds, its answer does not arrive, and `run` does all of it again."""
    mill = Mill(database)
    job = mill.load("job", ["a", "b", "c", "d"])
    shift = mill.shift()
    held = mill.claim(shift, limit=3)
    lost: list[bool] = []

    class Unlucky(Database):
        @contextmanager
        def _transaction(self):
            with super()._transaction() as session:
                yield session
            if not lost:
                lost.append(True)
                raise exc.OperationalError(
                    "COMMIT", {}, ConnectionError("gone"), connection_invalidated=True
                )

    unlucky = Mill(Unlucky(database.engine.url.render_as_string(hide_password=False)))
    for change in (
        lambda: unlucky.complete(shift, held[:1]),
        lambda: unlucky.fail(shift, held[1].id),
        lambda: unlucky.give_back(shift, [held[2].id]),
        unlucky.fold,
        lambda: unlucky.cancel(job),
        unlucky.finish_jobs,
        lambda: unlucky.end(shift),
    ):
        lost.clear()
        change()
        assert lost
    assert mill.counts(job).done == 1
    assert mill.counts(job).cancelled == 3
    assert mill.audit() == []
    unlucky.database.close()


def test_a_locked_sqlite_file_is_waited_for(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagemill.db.engines._SQLITE_BUSY_MS", 50)
    mill = Mill(Database(f"sqlite:///{sqlite_database.file}"))
    holder = sqlite3.connect(str(sqlite_database.file), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match="locked"):
        mill.database.run(statement("UPDATE jobs SET name = name"), patience=0.2)
    done = threading.Event()

    def wait() -> None:
        mill.load("job", ["a"])
        done.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not done.wait(0.3)
    holder.execute("COMMIT")
    holder.close()
    waiter.join(240)
    assert done.is_set()


def test_a_new_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "new.sqlite3"
    writer = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("CREATE TABLE begun (x)")
    end = threading.Timer(0.3, writer.execute, ["COMMIT"])
    end.start()
    database = Database(f"sqlite:///{file}")
    with database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM begun")) == 0
    end.join()
    writer.close()
    database.close()


def test_a_frozen_client_does_not_keep_its_locks(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagemill.db.engines._IDLE_MS", 300)
    url = postgres_database.engine.url.render_as_string(hide_password=False)
    mill = Mill(postgres_database)
    mill.load("job", ["a", "b"])
    frozen = Database(url)

    def freeze() -> None:
        with frozen.writing() as session:
            session.execute(text("UPDATE images SET suspect = true"))
            time.sleep(0.6)
            session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseError, match="idle-in-transaction"):
        freeze()
    assert len(mill.claim(mill.shift())) == 2
    frozen.close()


def test_a_long_export_may_idle(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no locks. It may not before it has said that it reads: so this limit is longer."""
    monkeypatch.setattr("imagemill.db.engines._IDLE_MS", 2000)
    reader = Database(postgres_database.engine.url.render_as_string(hide_password=False))
    with reader.reading() as session:
        session.execute(text("SELECT 1"))
        time.sleep(2.5)
        assert session.scalar(text("SELECT 1")) == 1
    reader.close()


# Reading -----------------------------------------------------------------------------------


def test_a_reader_sees_one_moment_and_blocks_nobody(database: Database) -> None:
    mill = Mill(database)
    count = text("SELECT count(*) FROM jobs")
    with database.reading() as session:
        assert session.scalar(count) == 0
        mill.load("job", ["a"])
        assert session.scalar(count) == 0
    with database.reading() as session:
        assert session.scalar(count) == 1


def test_nothing_written_while_reading_is_kept(database: Database) -> None:
    mill = Mill(database)
    mill.load("job", ["a"])
    # Postgres refuses it; SQLite forgets it.
    with suppress(exc.DBAPIError), database.reading() as session:
        session.execute(text("UPDATE jobs SET name = 'changed'"))
    assert mill.job(1).name == "job"


def test_an_exception_rolls_back(database: Database) -> None:
    mill = Mill(database)
    mill.load("job", ["a"])

    def change() -> None:
        with database.writing() as session:
            session.execute(text("UPDATE jobs SET name = 'changed'"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert mill.job(1).name == "job"

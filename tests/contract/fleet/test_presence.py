"""Being seen: idle workers stay, stopped ones go, and a database that is away is waited for."""

import os

import pytest
from sqlalchemy import update

from imagemill.db.clock import seconds_from_now
from imagemill.db.queries.fleet import reports
from imagemill.db.queries.work.presence import ALIVE_SECONDS
from imagemill.db.settings import Settings
from imagemill.db.tables import Worker
from imagemill.worker.process.presence import SEEN_SECONDS, Presence, belong_to
from tests.helpers.mill import Mill
from tests.integration.workers import eventually


@pytest.fixture
def settings(mill: Mill) -> Settings:
    url = mill.database.engine.url.render_as_string(hide_password=False)
    return Settings(database_url=url, route="default", device="auto")


@pytest.fixture
def presence(settings: Settings):
    presence = Presence(settings, seconds=0.05)
    yield presence
    presence.close()


def mine(mill: Mill) -> list[reports.WorkerReport]:
    """What `status` shows of this process."""
    with mill.database.reading() as session:
        return [each for each in reports.list_workers(session) if each.pid == os.getpid()]


def forget(mill: Mill) -> None:
    """As if nobody had been seen for longer than counts as alive."""
    past = seconds_from_now(-ALIVE_SECONDS - 1)
    mill.database.run(lambda session: session.execute(update(Worker).values(seen_at=past)))


def test_an_idle_worker_is_seen_before_its_first_shift_and_stays(mill, presence):
    presence.start()
    assert eventually(lambda: mine(mill))
    forget(mill)
    assert eventually(lambda: mine(mill))
    [worker] = mine(mill)
    assert (worker.device, worker.working) == ("auto", False)


def test_a_process_has_the_name_of_its_worker_as_flower_shows_it(mill, settings, monkeypatch):
    monkeypatch.setenv("_IMAGEMILL_NODE", "")
    belong_to("gpu-7@host")
    named = Presence(settings)
    named.worker_id("cpu")
    assert [each.name for each in mine(mill)] == [f"gpu-7@host:{os.getpid()}"]
    named.close()


def test_a_worker_that_gives_no_more_signs_is_forgotten(mill, settings):
    silent = Presence(settings, seconds=0.05)
    silent.worker_id("cpu")
    assert len(mine(mill)) == 1
    forget(mill)
    assert mine(mill) == []
    silent.close()


def test_the_first_shift_registers_the_device_of_the_same_row(mill, presence):
    presence.start()
    assert eventually(lambda: mine(mill))
    worker_id = presence.worker_id("cuda:1")
    [worker] = mine(mill)
    assert worker.device == "cuda:1"
    with mill.database.reading() as session:
        assert session.get_one(Worker, worker_id).pid == os.getpid()


def test_who_has_signed_off_is_gone_at_once_and_stays_gone(mill, settings):
    presence = Presence(settings, seconds=0.02)
    presence.start()
    assert eventually(lambda: mine(mill))
    presence.close()
    assert mine(mill) == []
    assert not eventually(lambda: mine(mill), 0.2)


def test_a_database_that_comes_late_is_told_then(tmp_path, mill, caplog, monkeypatch):
    """It is no reason to end: the children of a machine may be up before its database."""
    if not mill.database.is_sqlite:
        pytest.skip("a file can be away without a server being stopped")
    file = mill.database.file
    away = file.rename(tmp_path / "away.sqlite3")
    file.mkdir()  # a folder in its place can't be opened
    monkeypatch.setattr("imagemill.worker.process.presence._PATIENCE_SECONDS", 0.1)
    presence = Presence(Settings(database_url=f"sqlite:///{file}"), seconds=0.05)
    presence.start()
    assert eventually(lambda: "could not say that this worker is alive" in caplog.text)
    file.rmdir()
    away.rename(file)
    assert eventually(lambda: mine(mill))
    presence.close()


def test_three_signs_may_be_lost():
    assert SEEN_SECONDS * 4 <= ALIVE_SECONDS

"""Workers and dispatcher on disks that are full: they wait, charge nobody, and go on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagemill.db.errors import DatabaseError
from imagemill.db.queries.tallies import Counts
from imagemill.scheduler_jobs.local.postgres import PostgresServer
from tests.helpers.machine.disks import fill, postgres_on, small_disk
from tests.helpers.mill import spec
from tests.integration.workers import Plant, eventually, held, planted, uncharged

# Longer than a disk is full here: a lease that was lost meanwhile would charge its images.
LEASE = {"lease_seconds": "60", "heartbeat_seconds": "0.3", "retry_seconds": "0"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=16) as disk:
        (disk / "objects").mkdir()
        yield disk


@pytest.fixture
def server(tmp_path: Path, open_folder: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL on a small disk of its own."""
    with (
        small_disk(open_folder / "server", megabytes=160) as folder,
        postgres_on(folder, durable=False, log=tmp_path / "server.log") as server,
    ):
        yield server


def test_a_store_whose_disk_is_full_is_waited_for(
    postgres_url: str, broker_url: str, disk: Path, tmp_path: Path
) -> None:
    store = {"broker_url": broker_url, "storage_url": str(disk / "objects")}
    with planted(postgres_url, tmp_path, **store, **LEASE) as plant:
        job = plant.mill.load("job", held(tmp_path / "gate", 12))
        dispatcher, worker = plant.dispatcher(), plant.worker()
        assert eventually(lambda: plant.leased(job) > 0), plant.logs
        ballast = fill(disk)
        (tmp_path / "gate").touch()
        assert eventually(lambda: "No space left" in worker.said), plant.logs
        ballast.unlink()
        _all_done(plant, job, 12)
        assert worker.alive
        assert dispatcher.alive


def test_one_full_disk_for_database_store_and_logs(
    broker_url: str, disk: Path, tmp_path: Path
) -> None:
    """As on a laptop: SQLite, the pictures and the logs share it."""
    store = {"broker_url": broker_url, "storage_url": str(disk / "objects")}
    with planted(f"sqlite:///{disk / 'mill.sqlite3'}", disk, **store, **LEASE) as plant:
        job = plant.mill.load("job", held(tmp_path / "gate", 12))
        dispatcher, worker = plant.dispatcher(), plant.worker()
        assert eventually(lambda: plant.leased(job) > 0), plant.logs
        ballast = fill(disk)
        (tmp_path / "gate").touch()
        # Nobody can log on a full disk, so time must do as a sign that they wait.
        assert not eventually(lambda: not plant.mill.counts(job).pending, 6), "nothing was full"
        assert worker.alive, "it ended for want of room"
        assert dispatcher.alive, "it ended for want of room"
        ballast.unlink()
        _all_done(plant, job, 12)


def test_a_database_whose_disk_is_full_is_waited_for(
    server: PostgresServer, broker_url: str, open_folder: Path, tmp_path: Path
) -> None:
    """PostgreSQL refuses what needs room, and ends itself when its log finds none."""
    (tmp_path / "objects").mkdir()
    store = {"broker_url": broker_url, "storage_url": str(tmp_path / "objects")}
    with planted(server.url, tmp_path, **store, **LEASE) as plant:
        slow = [replace(spec(f"slow {n}"), steps=4) for n in range(20)]
        job = plant.mill.load("job", [*slow, *(spec(f"quick {n}") for n in range(40))])
        dispatcher, worker = plant.dispatcher(), plant.worker()
        assert eventually(lambda: plant.leased(job) > 0), plant.logs
        ballast = fill(open_folder / "server")
        assert eventually(lambda: "No space left" in server.log.read_text()), plant.logs
        ballast.unlink()
        assert eventually(lambda: _answers(server, plant, job)), server.log.read_text()
        _all_done(plant, job, 60)
        assert worker.alive
        assert dispatcher.alive


def _answers(server: PostgresServer, plant: Plant, job: int) -> bool:
    """Whether the database answers, which starts again if it ended itself, as by `imagemill up`."""
    if not server.running:
        server.start()
    try:
        plant.mill.counts(job)
    except DatabaseError:
        return False
    return True


def _all_done(plant: Plant, job: int, images: int) -> None:
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=images)
    assert all(uncharged(plant.mill, job))

"""Workers and dispatcher on disks so slow that a commit or a file takes seconds: nothing is lost,
nothing is charged, and nobody loses a lease because of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from imagemill.db.queries.tallies import Counts
from imagemill.db.tables import Shift
from tests.helpers.machine.disks import SlowDisk, postgres_on, slow_disk
from tests.integration.workers import Plant, eventually, held, planted, uncharged

IMAGES = 6
WRITES_A_SECOND = 15

LEASE = {"lease_seconds": "60", "heartbeat_seconds": "0.3", "retry_seconds": "0"}


@pytest.fixture
def disk(open_folder: Path) -> Iterator[SlowDisk]:
    with slow_disk(open_folder / "disk", megabytes=256) as disk:
        yield disk


@pytest.mark.slow
def test_a_folder_of_objects_on_a_slow_disk(
    postgres_url: str, broker_url: str, disk: SlowDisk, tmp_path: Path
) -> None:
    store = disk.folder / "objects"
    store.mkdir()
    settings = LEASE | {"broker_url": broker_url, "storage_url": str(store)}
    with planted(postgres_url, tmp_path, **settings) as plant:
        _works_slowly(plant, disk, tmp_path / "gate")


@pytest.mark.slow
def test_one_slow_disk_for_sqlite_and_the_objects(
    broker_url: str, disk: SlowDisk, tmp_path: Path
) -> None:
    """As on a laptop with a memory card."""
    store = disk.folder / "objects"
    store.mkdir()
    settings = LEASE | {"broker_url": broker_url, "storage_url": str(store)}
    database = f"sqlite:///{disk.folder / 'mill.sqlite3'}"
    with planted(database, tmp_path, **settings) as plant:
        _works_slowly(plant, disk, tmp_path / "gate")


@pytest.mark.slow
def test_a_postgresql_on_a_slow_disk(broker_url: str, disk: SlowDisk, tmp_path: Path) -> None:
    folder = disk.folder / "server"
    folder.mkdir(mode=0o711)
    with (
        postgres_on(folder, durable=True, log=tmp_path / "server.log") as server,
        planted(server.url, tmp_path, **LEASE, broker_url=broker_url) as plant,
    ):
        _works_slowly(plant, disk, tmp_path / "gate")


def _works_slowly(plant: Plant, disk: SlowDisk, gate: Path) -> None:
    job = plant.mill.load("job", held(gate, IMAGES))
    worker, dispatcher = plant.worker(), plant.dispatcher()
    assert eventually(lambda: plant.leased(job) > 0), plant.logs
    disk.slow_to(WRITES_A_SECOND)
    gate.touch()
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=IMAGES)
    disk.slow_to(0)
    assert all(uncharged(plant.mill, job))
    with plant.database.reading() as session:
        lost = select(func.count()).where(Shift.end_reason == "lost")
        assert session.scalar(lost) == 0, "a slow disk took a lease"
    assert worker.alive
    assert dispatcher.alive
    assert "Traceback" not in plant.logs

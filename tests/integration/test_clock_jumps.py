"""Machines whose clocks are set anew while they work: the database's clock alone decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import func, select

from imagemill.db.queries.tallies import Counts
from imagemill.db.tables import Shift
from tests.helpers.machine.database_clock import DatabaseClock
from tests.helpers.machine.faked_clock import FakedClock
from tests.integration.workers import Plant, Program, eventually, held, planted, uncharged

IMAGES = 8
HOUR = 3600

# Longer than a busy machine makes a heartbeat wait: a lease that is lost here was lost by a clock.
LEASE = {"lease_seconds": "60", "heartbeat_seconds": "0.3", "retry_seconds": "0"}


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job in the middle: some of its images are leased, and wait for the file `gate`."""

    plant: Plant
    gate: Path
    job: int
    worker: Program
    dispatcher: Program

    @classmethod
    def begun(cls, plant: Plant, folder: Path) -> Self:
        """Load the job, start the processes, and wait until a worker holds some of its images."""
        gate = folder / "gate"
        job = plant.mill.load("job", held(gate, IMAGES))
        worker, dispatcher = plant.worker(), plant.dispatcher()
        assert eventually(lambda: plant.leased(job) > 0), plant.logs
        return cls(plant=plant, gate=gate, job=job, worker=worker, dispatcher=dispatcher)

    def finishes(self) -> None:
        """Let the images go, and wait until every one of them is done."""
        self.gate.touch()
        assert self.plant.finishes(self.job), self.plant.logs
        assert self.plant.mill.counts(self.job) == Counts(done=IMAGES)

    def processes_live(self) -> bool:
        return self.worker.alive and self.dispatcher.alive


@pytest.fixture
def clock(tmp_path: Path) -> FakedClock:
    """The clock of the dispatcher's and the worker's machine; the database has another one."""
    clock = FakedClock.made(tmp_path / "clock")
    if clock is None:
        pytest.skip("libfaketime is not installed")
    return clock


@pytest.fixture
def plant(postgres_url: str, broker_url: str, tmp_path: Path, clock: FakedClock) -> Iterator[Plant]:
    # A dispatcher that trusted its own clock would remove every job a week ahead.
    settings = LEASE | {"broker_url": broker_url, "prune_days": "1"}
    with planted(postgres_url, tmp_path, **settings) as plant:
        plant.environment |= clock.environment()
        yield plant


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, -1, 7 * 24, -7 * 24])
def test_a_clock_that_jumps_costs_nothing(
    plant: Plant, clock: FakedClock, tmp_path: Path, hours: int
) -> None:
    work = Work.begun(plant, tmp_path)
    clock.jump(hours * HOUR)
    _renews(plant)
    work.finishes()
    assert all(uncharged(plant.mill, work.job))
    after = plant.mill.load("after the jump", ["a", "b"])
    assert plant.finishes(after), plant.logs
    clock.jump(0)
    last = plant.mill.load("right again", ["c", "d"])
    assert plant.finishes(last), plant.logs
    assert plant.mill.counts(work.job) == Counts(done=IMAGES), "an old job was pruned"
    assert _lost(plant) == 0
    assert work.processes_live()
    assert "Traceback" not in plant.logs


@pytest.mark.slow
def test_s3_refuses_a_clock_that_is_off_and_is_waited_for(
    plant: Plant,
    clock: FakedClock,
    tmp_path: Path,
    s3_storage_url: str,
    s3_environment: dict[str, str],
) -> None:
    """Signatures are good for minutes: with a wrong clock a worker waits, and charges nobody."""
    plant.environment |= s3_environment | {"IMAGEMILL_STORAGE_URL": s3_storage_url}
    work = Work.begun(plant, tmp_path)
    clock.jump(HOUR)
    _renews(plant)
    work.gate.touch()
    assert eventually(lambda: "clock is off" in work.worker.said), plant.logs
    clock.jump(0)
    work.finishes()
    assert all(uncharged(plant.mill, work.job))


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, -1])
def test_a_database_whose_clock_jumps_loses_and_doubles_nothing(
    postgres_url: str, broker_url: str, tmp_path: Path, hours: int
) -> None:
    """Ahead, every lease is over at once; back, it is renewed as ever."""
    clock = DatabaseClock(postgres_url.replace("+psycopg", ""))
    with planted(postgres_url, tmp_path, **LEASE, broker_url=broker_url) as plant:
        work = Work.begun(plant, tmp_path)
        clock.advance(hours * HOUR)
        if hours > 0:
            assert eventually(lambda: _lost(plant) > 0), plant.logs
        work.finishes()
        assert _lost(plant) == (1 if hours > 0 else 0)
        assert work.processes_live()


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_of_a_laptop_jumps(
    broker_url: str, sqlite_url: str, clock: FakedClock, tmp_path: Path, hours: int
) -> None:
    """SQLite has its process's clock."""
    with planted(sqlite_url, tmp_path, **LEASE, broker_url=broker_url) as plant:
        plant.environment |= clock.environment()
        work = Work.begun(plant, tmp_path)
        clock.jump(hours * HOUR)
        work.finishes()
        assert work.processes_live()


def _renews(plant: Plant) -> None:
    """Wait until a lease was renewed several times: by then every process knows of a jump."""
    before = _lease(plant)
    assert eventually(lambda: (_lease(plant) - before).total_seconds() > 2), plant.logs


def _lease(plant: Plant) -> datetime:
    with plant.database.reading() as session:
        return session.scalars(select(func.max(Shift.lease_until))).one()


def _shifts(plant: Plant) -> list[Shift]:
    with plant.database.reading() as session:
        return list(session.scalars(select(Shift)))


def _lost(plant: Plant) -> int:
    return sum(shift.end_reason == "lost" for shift in _shifts(plant))

"""Two real Celery workers that an operator pins, and jobs that may have few of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from imagemill.db.queries.fleet.reports import list_workers
from imagemill.db.queries.work.pins import find_target, pin
from tests.helpers.mill import spec
from tests.integration.workers import Plant, eventually, planted

SETTINGS = {"heartbeat_seconds": "0.5"}


@pytest.fixture
def plant(migrated_url: str, broker_url: str, tmp_path: Path) -> Iterator[Plant]:
    with planted(migrated_url, tmp_path, broker_url=broker_url, **SETTINGS) as plant:
        yield plant


def workers_of(plant: Plant, job: int) -> set[str]:
    """The names of the processes that rendered a job."""
    query = text(
        "SELECT DISTINCT w.name FROM attempts a JOIN images i ON i.id = a.image_id"
        " JOIN shifts s ON s.id = a.shift_id JOIN workers w ON w.id = s.worker_id"
        " WHERE a.event = 'done' AND i.job_id = :job"
    )
    with plant.database.reading() as session:
        return set(session.scalars(query, {"job": job}))


def test_a_pinned_worker_renders_its_job_alone_and_others_the_rest(plant: Plant) -> None:
    plant.dispatcher()
    for _ in range(2):
        plant.worker()

    def names() -> list[str]:
        with plant.database.reading() as session:
            return sorted(w.name for w in list_workers(session) if w.name != "w@host")

    assert eventually(lambda: len(names()) == 2), plant.logs
    pinned, free = names()
    mine = plant.mill.load("mine", [spec(f"mine {n}") for n in range(8)], opened=False)
    plant.database.run(lambda session: pin(session, pinned, find_target(session, "mine")))
    slow = [replace(spec(f"slow {n}"), steps=4) for n in range(8)]
    rest = plant.mill.load("rest", slow, priority=5, max_workers=1)
    assert plant.finishes(rest), plant.logs
    plant.mill.open(mine)
    assert plant.finishes(mine), plant.logs
    assert workers_of(plant, rest) == {free}
    assert workers_of(plant, mine) <= {free, pinned}

"""A worker on another host whose cable is pulled while it renders, and plugged in again."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from imagemill.db.queries.tallies import Counts
from tests.helpers.machine.cables import Cable, cable, reachable
from tests.integration.workers import Plant, Program, eventually, held, planted

IMAGES = 16


@pytest.fixture
def line() -> Iterator[Cable]:
    with cable() as line:
        yield line


@pytest.mark.slow
def test_a_worker_that_is_cut_off_loses_its_images_and_comes_back(
    line: Cable, postgres_url: str, broker_url: str, tmp_path: Path
) -> None:
    (tmp_path / "objects").mkdir()
    settings = {"broker_url": broker_url, "storage_url": str(tmp_path / "objects")}
    settings |= {"lease_seconds": "5", "heartbeat_seconds": "0.3", "retry_seconds": "0"}
    with ExitStack() as stack:
        plant = stack.enter_context(planted(postgres_url, tmp_path, **settings))
        there = {}
        for name, url in (("DATABASE", postgres_url), ("BROKER", broker_url)):
            place = make_url(url)
            port = stack.enter_context(reachable(line.address, place.port or 0))
            moved = place.set(host=line.address, port=port)
            there[f"IMAGEMILL_{name}_URL"] = moved.render_as_string(hide_password=False)
        gate = tmp_path / "gate"
        job = plant.mill.load("cut off", held(gate, IMAGES))
        plant.dispatcher()
        far = Program(
            *("tests.chaos.worker", "--children", "1"),
            environment=plant.environment | there,
            log=tmp_path / "far.log",
            prefix=line.prefix,
        )
        stack.callback(far.close)
        assert eventually(lambda: plant.leased(job) > 0), plant.logs + far.said
        line.pull()
        near = plant.worker()
        assert eventually(lambda: _lost(plant) > 0), plant.logs + far.said
        gate.touch()
        assert plant.finishes(job), plant.logs
        assert plant.mill.counts(job) == Counts(done=IMAGES)
        assert far.alive, "being cut off ended it"
        near.close()
        line.plug()
        after = plant.mill.load("after", ["a", "b", "c"])
        assert plant.finishes(after), plant.logs + far.said
        assert plant.mill.counts(after) == Counts(done=3)
        done = "SELECT count(*) FROM attempts WHERE event = 'done'"
        with plant.database.reading() as session:
            assert session.scalar(text(done)) == IMAGES + 3, "each became done once"


def _lost(plant: Plant) -> int:
    query = text("SELECT count(*) FROM shifts WHERE end_reason = 'lost'")
    with plant.database.reading() as session:
        return int(session.scalar(query) or 0)

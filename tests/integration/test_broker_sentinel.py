"""Redis Sentinel as the broker: two real Valkeys, a real Sentinel, and a failover."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagemill.db.broker.wake_ups import Tokens
from imagemill.db.errors import BrokerError
from imagemill.db.queries.tallies import Counts
from imagemill.db.settings import Settings
from tests.helpers.mill import spec
from tests.helpers.servers.sentinel import MASTER, Watched
from tests.integration.workers import Plant, eventually, planted

SLOW = [replace(spec(f"slow {n}"), steps=20) for n in range(12)]
"""4 s of work for each: a failover takes less than a shift."""


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Watched() as watched:
        yield watched


@pytest.fixture
def plant(postgres_url: str, watched: Watched, tmp_path: Path) -> Iterator[Plant]:
    (tmp_path / "store").mkdir()
    with planted(
        postgres_url,
        tmp_path,
        broker_url=watched.url,
        broker_master=MASTER,
        broker_sentinel_password=watched.sentinel_password,
        storage_url=str(tmp_path / "store"),
        heartbeat_seconds="0.5",
    ) as plant:
        yield plant


def test_work_goes_on_through_a_failover(plant: Plant, watched: Watched) -> None:
    job = plant.mill.load("job", SLOW)
    plant.dispatcher()
    worker = plant.worker()
    assert eventually(lambda: plant.leased(job) > 0, 120), plant.logs
    lost = watched.master_port()
    assert watched.kill_master() != lost
    assert plant.finishes(job, 180), plant.logs
    assert plant.mill.counts(job) == Counts(done=len(SLOW))
    # The second job's token can come only through the new master.
    second = plant.mill.load("second", [f"picture {n}" for n in range(6)])
    assert plant.finishes(second, 180), plant.logs
    assert worker.alive
    assert "Traceback" not in plant.logs
    for secret in (watched.password, watched.sentinel_password):
        assert secret not in plant.logs


def test_a_wrong_name_or_password_is_one_line(watched: Watched) -> None:
    right = {
        "broker_url": watched.url,
        "broker_master": MASTER,
        "broker_sentinel_password": watched.sentinel_password,
    }
    tokens = Tokens(Settings.load(**right))
    tokens.publish("default", 3)
    assert tokens.waiting("default") == 3
    tokens.close()
    wrong = [{"broker_master": "another"}, {"broker_sentinel_password": "another"}]
    for change in wrong:
        tokens = Tokens(Settings.load(**{**right, **change}))
        with pytest.raises(BrokerError, match=re.escape("sentinel://:***@127.0.0.1")) as caught:
            tokens.publish("default")
        assert "\n" not in str(caught.value)
        tokens.close()

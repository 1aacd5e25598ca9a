"""Redis Sentinel as the broker: two real Valkeys, a real Sentinel, and a failover."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from imagemill.db.broker.wake_ups import Tokens
from imagemill.db.errors import BrokerError
from imagemill.db.queries.tallies import Counts
from imagemill.db.settings import Settings
from tests.helpers.mill import spec
from tests.helpers.servers.sentinel import MASTER, Watched
from tests.helpers.servers.tls_proxy import Authority, TlsProxy
from tests.integration.workers import Plant, eventually, planted

SLOW = [replace(spec(f"slow {n}"), steps=20) for n in range(4)]
"""16 s of work, all at once: a failover takes less than a shift."""


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Watched() as watched:
        yield watched


@pytest.fixture
def plant(postgres_url: str, watched: Watched, tmp_path: Path) -> Iterator[Plant]:
    with planted(
        postgres_url,
        tmp_path,
        broker_url=watched.url,
        broker_master=MASTER,
        broker_sentinel_password=watched.sentinel_password,
        heartbeat_seconds="0.5",
    ) as plant:
        yield plant


def test_work_goes_on_through_a_failover(plant: Plant, watched: Watched) -> None:
    job = plant.mill.load("job", SLOW)
    plant.dispatcher()
    worker = plant.worker()
    assert eventually(lambda: plant.leased(job) > 0), plant.logs
    lost = watched.master_port()
    assert watched.kill_master() != lost
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=len(SLOW))
    # The second job's token can come only through the new master.
    second = plant.mill.load("second", [f"picture {n}" for n in range(6)])
    assert plant.finishes(second), plant.logs
    assert worker.alive
    assert "Traceback" not in plant.logs
    for secret in (watched.password, watched.sentinel_password):
        assert secret not in plant.logs


@pytest.mark.parametrize("trusted", ["both", "no server", "nobody"])
def test_certificates_of_sentinels_and_servers_are_checked(tmp_path: Path, trusted: str) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "foreign").mkdir()
    ours, foreign = Authority(tmp_path / "ours"), Authority(tmp_path / "foreign")
    certificate = (ours if trusted == "both" else foreign).certificate("127.0.0.1")
    with ExitStack() as opened:
        servers: list[TlsProxy] = []

        def front(port: int) -> int:
            servers.append(opened.enter_context(TlsProxy(port, *certificate, plain_too=True)))
            return servers[-1].port

        watched = opened.enter_context(Watched(front=front))
        door = TlsProxy(watched.sentinel_port, *ours.certificate("127.0.0.1"))
        opened.enter_context(door)
        tokens = Tokens(
            Settings.load(
                broker_url=f"sentinels://:{watched.password}@127.0.0.1:{door.port}/0",
                broker_master=MASTER,
                broker_sentinel_password=watched.sentinel_password,
                broker_ca=None if trusted == "nobody" else ours.file,
            )
        )
        opened.callback(tokens.close)
        if trusted == "both":
            tokens.publish("default", 2)
            assert tokens.waiting("default") == 2
            assert servers[0].accepted
        else:
            with pytest.raises(BrokerError, match=r"(?i)certificate") as caught:
                tokens.publish("default")
            assert len(str(caught.value)) < 300
            assert servers[0].accepted == 0
        assert bool(door.accepted) == (trusted != "nobody")


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

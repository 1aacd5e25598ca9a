"""Workers and dispatcher through outages of the broker, the database and the store."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from imagemill.db.queries.tallies import Counts
from tests.helpers.servers.postgres import Postgres
from tests.helpers.servers.s3_proxy import Fault, FaultPlan, S3Proxy
from tests.helpers.servers.seaweedfs import Seaweed
from tests.helpers.servers.valkey import Valkey
from tests.integration.workers import Plant, eventually, held, planted


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server of this module's own, because it is killed."""
    with Postgres() as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def proxy(s3_server: Seaweed) -> Iterator[S3Proxy]:
    with S3Proxy(s3_server.port, hang_seconds=1) as proxy:
        yield proxy


@pytest.fixture
def plant(
    postgres: Postgres,
    valkey: Valkey,
    proxy: S3Proxy,
    s3_storage_url: str,
    s3_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Plant]:
    with planted(
        postgres.create_database(),
        tmp_path,
        broker_url=valkey.url,
        storage_url=s3_storage_url,
        lease_seconds="5",
        heartbeat_seconds="0.3",
        retry_seconds="0",
    ) as plant:
        plant.environment |= s3_environment | {"IMAGEMILL_S3_ENDPOINT_URL": proxy.endpoint}
        yield plant


def works(plant: Plant, name: str) -> int:
    """A small job, done: the plant is up. Its id."""
    job = plant.mill.load(name, [f"{name} {n}" for n in range(6)])
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=6)
    return job


@pytest.mark.parametrize("how", ["flushed", "killed and empty"])
def test_work_flows_again_after_the_broker_lost_everything(
    plant: Plant, valkey: Valkey, how: str
) -> None:
    plant.dispatcher()
    worker = plant.worker()
    works(plant, "before")
    if how == "flushed":
        with Redis.from_url(valkey.url) as client:
            client.flushall()
    else:
        valkey.kill()
        for each in Path(valkey._folder).glob("appendonly*"):
            shutil.rmtree(each)
        valkey.restart()
    works(plant, "after")
    assert worker.alive


def test_a_broker_that_is_away_is_waited_for(plant: Plant, valkey: Valkey) -> None:
    dispatcher = plant.dispatcher()
    worker = plant.worker()
    works(plant, "before")
    valkey.kill()
    job = plant.mill.load("meanwhile", ["a", "b"])
    assert eventually(lambda: "waiting for the broker" in dispatcher.said), dispatcher.said
    time.sleep(12)  # long enough for pauses that grow to have grown
    assert worker.alive, "it ended for want of a broker"
    assert dispatcher.alive
    valkey.restart()
    assert plant.finishes(job), plant.logs


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_a_database_that_restarts_in_the_middle_costs_nothing(
    plant: Plant, postgres: Postgres, how: str, tmp_path: Path
) -> None:
    """Images are ready to be recorded while it is away, or just before."""
    gate = tmp_path / "gate"
    job = plant.mill.load("job", held(gate, 8))
    dispatcher = plant.dispatcher()
    worker = plant.worker()
    assert eventually(lambda: plant.leased(job) > 0), plant.logs
    if how == "killed":
        postgres.kill()
        gate.touch()
        postgres.start()
    else:
        gate.touch()
        postgres.restart()
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=8)
    assert worker.alive
    assert dispatcher.alive
    assert "Traceback" not in worker.said


def test_a_worker_that_starts_before_the_database_waits_for_it(
    plant: Plant, postgres: Postgres
) -> None:
    worker = plant.worker()
    plant.dispatcher()
    works(plant, "before")
    postgres.kill()
    time.sleep(1)
    postgres.start()
    works(plant, "after")
    assert worker.alive


def test_images_survive_a_store_that_breaks_requests(plant: Plant, proxy: S3Proxy) -> None:
    plant.dispatcher()
    plant.worker()
    works(plant, "before")
    faults = [Fault.ERROR_500, Fault.RESET_AFTER, Fault.SLOW_DOWN_503, Fault.TRUNCATED_UPLOAD]
    faults += [Fault.ERROR_500_AFTER, Fault.CONFLICT_409, Fault.RESET_BEFORE]
    proxy.plan = FaultPlan(rates=dict.fromkeys(faults, 0.08), seed=1)
    job = plant.mill.load("faulted", [f"faulted {n}" for n in range(24)])
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=24)
    assert sum(proxy.injected.values()) > 0


def test_a_store_that_refuses_charges_nobody_and_says_why(plant: Plant, proxy: S3Proxy) -> None:
    plant.dispatcher()
    worker = plant.worker(lease_seconds="60")  # a lease that is lost charges its images
    works(plant, "before")
    proxy.plan = FaultPlan(rates={Fault.FORBIDDEN_403: 1.0})
    job = plant.mill.load("refused", ["a", "b", "c"])
    assert eventually(lambda: "storage_denied" in worker.said), worker.said
    assert eventually(lambda: plant.mill.counts(job) == Counts(ready=3))
    assert not any(image.suspect for image in plant.mill.images(job))
    proxy.plan = FaultPlan()
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=3)

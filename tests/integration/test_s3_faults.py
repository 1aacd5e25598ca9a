"""Every way a request can fail ends in the right content, or in a clear `StorageError`."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from imagemill.db.errors import ObjectConflict, ObjectMissing, StorageDenied, StorageError
from imagemill.db.storage.s3 import S3Storage
from tests.helpers.servers.s3_proxy import Conditions, Fault, FaultPlan, S3Proxy
from tests.helpers.servers.seaweedfs import Seaweed

PNG = "image/png"
BODY = bytes(range(256)) * 256
MENDED = [fault for fault in Fault if fault is not Fault.FORBIDDEN_403]
"""Faults that S3Storage gets over by itself when they happen once."""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait long between attempts."""
    impatient = SimpleNamespace(
        sleep=lambda seconds: time.sleep(min(seconds, 0.02)), time=time.time
    )
    monkeypatch.setattr("botocore.endpoint.time", impatient)
    monkeypatch.setattr("imagemill.db.storage.s3.time", impatient)


@pytest.fixture
def proxy(s3_server: Seaweed) -> Iterator[S3Proxy]:
    with S3Proxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def faulty(s3_storage_url: str, proxy: S3Proxy, request: pytest.FixtureRequest) -> S3Storage:
    """The same store as `s3_storage`, through the proxy.

    It gives up an answer soon only where a test is about answers that hang: on a busy machine the
    real server takes its time too.
    """
    bucket, _, prefix = s3_storage_url.removeprefix("s3://").partition("/")
    parameters = getattr(request.node, "callspec", None)
    hangs = parameters is not None and parameters.params.get("fault") is Fault.HANG
    seconds = 2.5 if hangs else 60.0
    return S3Storage(bucket, prefix, endpoint_url=proxy.endpoint, attempts=3, read_seconds=seconds)


def test_without_faults_the_proxy_changes_nothing(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy
):
    assert "conditional PUT is honoured" in faulty.probe()
    assert faulty.put("ab/c.png", BODY, media_type=PNG)
    assert not s3_storage.put("ab/c.png", BODY, media_type=PNG)
    assert faulty.get("ab/c.png") == BODY
    assert faulty.stat("ab/c.png") == s3_storage.stat("ab/c.png")
    assert list(faulty.list()) == list(s3_storage.list())
    faulty.delete("ab/c.png")
    with pytest.raises(ObjectMissing):
        faulty.get("ab/c.png")
    assert not proxy.injected


@pytest.mark.parametrize("fault", MENDED)
def test_a_fault_that_happens_once_is_got_over(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy, fault: Fault
):
    proxy.plan = FaultPlan(script=[fault])
    faulty.put("ab/c.png", BODY, media_type=PNG)
    assert proxy.injected == {fault: 1}
    assert s3_storage.get("ab/c.png") == BODY
    assert len(list(s3_storage.list())) == 1


@pytest.mark.parametrize("fault", [f for f in MENDED if f is not Fault.CONFLICT_409])
def test_reading_gets_over_a_fault_that_happens_once(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy, fault: Fault
):
    s3_storage.put("ab/c.png", BODY, media_type=PNG)
    proxy.plan = FaultPlan(script=[fault])
    assert faulty.get("ab/c.png") == BODY
    assert proxy.injected == {fault: 1}


@pytest.mark.parametrize("fault", [f for f in MENDED if f is not Fault.SLOW_BODY])
def test_a_fault_that_does_not_end_is_a_clear_error_until_it_ends(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy, fault: Fault
):
    proxy.plan = FaultPlan(rates={fault: 1})
    if fault is Fault.TRUNCATED_ANSWER:
        # The answer to a PUT has no body that could be cut, so the object is simply stored.
        assert faulty.put("ab/c.png", BODY, media_type=PNG)
    else:
        with pytest.raises(StorageError) as caught:
            faulty.put("ab/c.png", BODY, media_type=PNG)
        assert type(caught.value) is StorageError
        assert caught.value.retryable
        assert "ab/c.png in bucket pictures: the store" in caught.value.message
    assert proxy.injected[fault] >= 1

    stored = s3_storage.stat("ab/c.png")
    assert stored is None or s3_storage.get("ab/c.png") == BODY
    proxy.plan = FaultPlan()
    assert faulty.put("ab/c.png", BODY, media_type=PNG) == (stored is None)
    assert s3_storage.get("ab/c.png") == BODY


def test_a_refusal_is_not_repeated(s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy):
    proxy.plan = FaultPlan(script=[Fault.FORBIDDEN_403])
    with pytest.raises(StorageDenied, match="access denied"):
        faulty.put("ab/c.png", BODY, media_type=PNG)
    assert proxy.requests == {"PUT": 1}
    assert s3_storage.stat("ab/c.png") is None


def test_a_lost_answer_is_told_from_another_content(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy
):
    proxy.plan = FaultPlan(script=[Fault.RESET_AFTER])
    assert not faulty.put("ab/c.png", BODY, media_type=PNG)
    proxy.plan = FaultPlan(script=[Fault.RESET_AFTER, Fault.RESET_AFTER])
    with pytest.raises(ObjectConflict):
        faulty.put("ab/c.png", BODY[::-1], media_type=PNG)
    assert s3_storage.get("ab/c.png") == BODY


def test_an_answer_that_stays_cut_is_an_error_not_half_a_picture(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy
):
    s3_storage.put("ab/c.png", BODY, media_type=PNG)
    proxy.plan = FaultPlan(rates={Fault.TRUNCATED_ANSWER: 1})
    with pytest.raises(StorageError, match="did not answer"):
        faulty.get("ab/c.png")
    assert proxy.injected == {Fault.TRUNCATED_ANSWER: 3}


@pytest.mark.parametrize("conditions", [Conditions.IGNORED, Conditions.REFUSED])
def test_a_store_without_conditional_put_is_found_out_and_served(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy, conditions: Conditions
):
    proxy.conditions = conditions
    assert "conditional PUT is not honoured" in faulty.probe()
    assert list(s3_storage.list()) == []
    assert faulty.put("ab/c.png", BODY, media_type=PNG)
    assert not faulty.put("ab/c.png", BODY, media_type=PNG)
    with pytest.raises(ObjectConflict):
        faulty.put("ab/c.png", BODY[::-1], media_type=PNG)
    assert s3_storage.get("ab/c.png") == BODY


def test_a_storm_of_faults_loses_and_doubles_nothing(
    s3_storage: S3Storage, faulty: S3Storage, proxy: S3Proxy
):
    rates = dict.fromkeys(Fault, 0.04) | {Fault.HANG: 0.01}
    proxy.hang_seconds = 0.5  # then the proxy breaks off what hangs
    proxy.plan = FaultPlan(rates=rates, seed=7)
    bodies = {f"ab/{number}.png": b"%d" % number * 500 for number in range(120)}

    def store(key: str) -> int:
        errors = 0
        while True:
            try:
                faulty.put(key, bodies[key], media_type=PNG)
                assert faulty.get(key) == bodies[key]
            except (ObjectConflict, ObjectMissing):
                raise
            except StorageError:
                errors += 1
            else:
                return errors

    with ThreadPoolExecutor(8) as writers:
        errors = sum(writers.map(store, bodies))
    assert set(proxy.injected) == set(Fault)
    assert errors >= proxy.injected[Fault.FORBIDDEN_403]
    assert {item.key: item.size for item in s3_storage.list()} == {
        key: len(body) for key, body in bodies.items()
    }
    assert all(s3_storage.get(key) == body for key, body in bodies.items())


def test_the_same_seed_gives_the_same_faults():
    def drawn(seed: int) -> list[Fault | None]:
        plan = FaultPlan(rates=dict.fromkeys(Fault, 0.05), seed=seed)
        return [plan.draw() for _ in range(500)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert set(drawn(1)) == {*Fault, None}

"""What only an S3 store has to withstand: wrong keys, no bucket, a server that goes away."""

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from imagemill.db.errors import ObjectConflict, StorageDenied, StorageError
from imagemill.db.storage.s3 import S3Storage
from tests.helpers.servers.seaweedfs import Seaweed

PNG = "image/png"


@pytest.fixture
def restarted_s3_server(s3_server: Seaweed) -> Iterator[Seaweed]:
    """The server, for a test that kills it: running again afterwards."""
    yield s3_server
    if not s3_server.running:
        s3_server.restart()


def everything(storage: S3Storage) -> list:
    """A call of each method that talks to the store."""
    return [
        lambda: storage.put("ab/c.png", b"pixels", media_type=PNG),
        lambda: storage.get("ab/c.png"),
        lambda: storage.stat("ab/c.png"),
        lambda: list(storage.list()),
        lambda: storage.delete("ab/c.png"),
        storage.probe,
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [("AWS_ACCESS_KEY_ID", "access key"), ("AWS_SECRET_ACCESS_KEY", "secret key")],
)
def test_wrong_keys_are_denied_at_once_and_not_shown(
    s3_storage: S3Storage,
    s3_server: Seaweed,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    said: str,
):
    monkeypatch.setenv(name, "wrongwrongwrongwrong")
    for call in everything(s3_storage):
        with pytest.raises(StorageDenied) as caught:
            call()
        message = caught.value.message
        assert s3_server.bucket in message
        assert said in message or "access denied" in message
        assert "AWS_ACCESS_KEY_ID" in message or "AWS_SECRET_ACCESS_KEY" in message
        assert not caught.value.retryable
        assert "\n" not in message
        for secret in ("wrongwrong", s3_server.access_key, s3_server.secret_key):
            assert secret not in message


def test_no_keys_are_denied_at_once(s3_storage: S3Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for call in everything(s3_storage):
        with pytest.raises(StorageDenied, match="no credentials: set AWS_ACCESS_KEY_ID"):
            call()


@pytest.mark.usefixtures("s3_environment")
def test_a_missing_bucket_is_denied_with_what_to_do(s3_server: Seaweed):
    storage = S3Storage("no-such-bucket", "pictures", endpoint_url=s3_server.endpoint)
    for call in everything(storage):
        with pytest.raises(StorageDenied, match="no-such-bucket: the bucket does not exist"):
            call()


def test_the_object_carries_its_type_and_hash(
    s3_storage: S3Storage, s3_storage_url: str, s3_server: Seaweed
):
    s3_storage.put("ab/c.png", b"pixels", media_type=PNG)
    bucket, _, prefix = s3_storage_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    head = client.head_object(Bucket=bucket, Key=f"{prefix}/ab/c.png")
    assert head["ContentType"] == PNG
    assert head["Metadata"] == {"sha256": hashlib.sha256(b"pixels").hexdigest()}


def test_an_object_of_another_tool_is_compared_by_its_bytes(
    s3_storage: S3Storage, s3_storage_url: str, s3_server: Seaweed
):
    bucket, _, prefix = s3_storage_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    client.upload_fileobj(io.BytesIO(b"pixels"), bucket, f"{prefix}/ab/c.png")
    assert not s3_storage.put("ab/c.png", b"pixels", media_type=PNG)
    with pytest.raises(ObjectConflict):
        s3_storage.put("ab/c.png", b"PIXELS", media_type=PNG)
    assert s3_storage.get("ab/c.png") == b"pixels"


def test_a_listing_longer_than_a_page(s3_storage: S3Storage):
    with ThreadPoolExecutor(16) as writers:
        keys = [f"ab/{number:04}" for number in range(1100)]
        list(writers.map(lambda key: s3_storage.put(key, b"", media_type=PNG), keys))
    assert sorted(item.key for item in s3_storage.list()) == keys


def test_a_killed_server_is_a_storage_error_and_loses_nothing(
    s3_storage: S3Storage, s3_storage_url: str, restarted_s3_server: Seaweed
):
    bucket, _, prefix = s3_storage_url.removeprefix("s3://").partition("/")
    hasty = S3Storage(bucket, prefix, endpoint_url=restarted_s3_server.endpoint, attempts=2)
    stored, failed = [], []
    killed = threading.Event()

    def write(number: int) -> None:
        if number >= 50:
            killed.wait(60)  # some are always left
        try:
            hasty.put(f"ab/{number}", b"pixels %d" % number, media_type=PNG)
        except StorageError as error:
            failed.append(error)
        else:
            stored.append(number)

    with ThreadPoolExecutor(8) as writers:
        writing = [writers.submit(write, number) for number in range(60)]
        while len(stored) < 20:
            time.sleep(0.002)
        restarted_s3_server.kill()
        killed.set()
        for each in writing:
            each.result()
    assert failed, "the server was killed with work left"
    assert all(error.retryable for error in failed)
    assert all("did not answer" in error.message for error in failed)
    for call in everything(hasty):
        with pytest.raises(StorageError, match="did not answer"):
            call()

    restarted_s3_server.restart()
    for number in range(60):
        s3_storage.put(f"ab/{number}", b"pixels %d" % number, media_type=PNG)
        assert s3_storage.get(f"ab/{number}") == b"pixels %d" % number
    assert len(list(s3_storage.list())) == 60

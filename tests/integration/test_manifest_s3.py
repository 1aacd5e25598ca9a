"""A manifest in a real S3 server."""

import gzip
from typing import TYPE_CHECKING

import pytest

from imagemill.db.errors import ManifestError, StorageDenied, StorageError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Limits, ManifestRow, open_source, read_manifest
from tests.helpers.servers.s3_proxy import Fault, FaultPlan, S3Proxy

if TYPE_CHECKING:
    from imagemill.db.storage.s3 import S3Storage
    from tests.helpers.servers.seaweedfs import Seaweed


@pytest.fixture
def settings(s3_server: "Seaweed", s3_environment: dict[str, str]) -> Settings:
    return Settings(s3_endpoint_url=s3_server.endpoint)


def test_a_gzipped_manifest_in_a_bucket(s3_storage: "S3Storage", settings: Settings) -> None:
    content = gzip.compress(b"".join(b'{"prompt": "cat %d"}\n' % n for n in range(5000)))
    s3_storage.put("rows.jsonl.gz", content, media_type="application/gzip")
    uri = s3_storage.object_uri("rows.jsonl.gz")
    with open_source(uri, settings) as source:
        assert source.name == uri
        rows = list(read_manifest(source, limits=Limits.from_settings(settings)))
    assert len(rows) == 5000
    assert isinstance(rows[-1], ManifestRow)
    assert rows[-1].prompt == "cat 4999"


def test_nothing_there_is_one_clear_line(s3_storage: "S3Storage", settings: Settings) -> None:
    with pytest.raises(ManifestError, match=r"rows\.csv: no such object"):
        open_source(s3_storage.object_uri("rows.csv"), settings)
    with pytest.raises((ManifestError, StorageDenied), match=r"no such bucket|denied"):
        open_source("s3://no-such-bucket/rows.csv", settings)


def test_an_answer_that_breaks_off_is_asked_for_again(
    s3_storage: "S3Storage", s3_server: "Seaweed", settings: Settings
) -> None:
    s3_storage.put("rows.csv", b"prompt\n" + b"a cat\n" * 5000, media_type="text/csv")
    uri, port = s3_storage.object_uri("rows.csv"), int(s3_server.endpoint.rpartition(":")[2])
    broken = FaultPlan(script=[Fault.TRUNCATED_ANSWER] * 2)
    with S3Proxy(port, broken) as proxy:
        there = settings.model_copy(update={"s3_endpoint_url": proxy.endpoint})
        with open_source(uri, there) as source:
            rows = list(read_manifest(source, limits=Limits.from_settings(settings)))
        assert len(rows) == 5000
        proxy.plan = FaultPlan(rates={Fault.TRUNCATED_ANSWER: 1.0})
        with pytest.raises(StorageError, match="did not answer"):
            open_source(uri, there)


def test_wrong_keys_are_refused(
    s3_storage: "S3Storage", settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_storage.put("rows.csv", b"prompt\na cat\n", media_type="text/csv")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageDenied, match="AWS_SECRET_ACCESS_KEY"):
        open_source(s3_storage.object_uri("rows.csv"), settings)

"""What `imagemill serve` counts, as Prometheus reads it: requests of the official client."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, RateLimitError
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.api.metrics import REGISTRY
from tests.helpers.deploy.metrics import Samples, value
from tests.helpers.http.api import ServedApi, served_api
from tests.helpers.mill import Mill
from tests.integration.workers import eventually

GENERATIONS = "/v1/images/generations"


@pytest.fixture
def api(sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> Iterator[ServedApi]:
    with served_api(sqlite_mill, folder_storage, tmp_path, backlog=3) as api:
        yield api


def scraped() -> Samples:
    text = generate_latest(REGISTRY).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Since:
    """How much a metric of this process grew since now."""

    def __init__(self) -> None:
        self._before = scraped()

    def __call__(self, name: str, **labels: str) -> float:
        return value(scraped(), name, **labels) - value(self._before, name, **labels)


def test_requests_are_counted_with_their_images_and_the_clients_that_wait(api: ServedApi) -> None:
    grown = Since()
    client = api.client()
    asked = {"prompt": "a", "n": 2, "size": "64x64", "extra_body": {"steps": 2}}
    key = {"extra_headers": {"Idempotency-Key": "same"}}
    thread = threading.Thread(target=lambda: client.images.generate(**asked, **key))
    thread.start()
    assert eventually(lambda: grown("imagemill_http_waiting") == 1, 60)
    with api.working():
        thread.join()
        client.images.generate(**asked, **key)
    place = {"method": "POST", "address": GENERATIONS}
    assert eventually(lambda: grown("imagemill_http_requests_total", **place, status="200") == 2)
    assert grown("imagemill_http_waiting") == 0
    assert grown("imagemill_http_images_total", kind="images") == 2, "the second was a repetition"
    assert grown("imagemill_http_seconds_count", **place) == 2
    assert grown("imagemill_http_seconds_sum", **place) > 0


def test_refusals_are_counted_by_their_reason_and_no_label_has_an_id(api: ServedApi) -> None:
    grown = Since()
    client = api.client()
    with pytest.raises(BadRequestError):
        client.images.generate(prompt="x", n=11)
    with pytest.raises(NotFoundError):
        client.files.retrieve("file-that-is-nowhere")
    with pytest.raises(NotFoundError):
        client.get("/nowhere", cast_to=object)
    api.mill.load("waiting", ["a", "b", "c"])
    with pytest.raises(RateLimitError):
        client.images.generate(prompt="x", size="64x64")
    api.key("alice")
    with pytest.raises(AuthenticationError):
        client.models.list()
    requests = "imagemill_http_requests_total"
    file = {"method": "GET", "address": "/v1/files/{file}", "status": "404"}
    assert eventually(lambda: grown(requests, address="/v1/models", status="401") == 1)
    assert grown(requests, **file) == 1
    assert grown(requests, address="other", method="other", status="404") == 1
    assert grown(requests, address=GENERATIONS, status="429") == 1
    for code in ("invalid_value", "not_found", "unknown_url", "backlog_full", "invalid_api_key"):
        assert grown("imagemill_http_refusals_total", code=code) == 1, code
    assert grown("imagemill_http_images_total") == 0
    assert "file-that-is-nowhere" not in generate_latest(REGISTRY).decode()

"""Who may use the API: keys, roles, quotas, limits, and what a web page can't do."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import (
    APIStatusError,
    AuthenticationError,
    OpenAI,
    PermissionDeniedError,
    RateLimitError,
)

from imagemill.db.queries.api.keys import revoke_key
from imagemill.db.storage.folder import FolderStorage
from tests.helpers.http.api import PATIENT, ServedApi, served_api
from tests.helpers.machine.clock import pass_midnight
from tests.helpers.mill import Mill

SMALL = {"size": "64x64", "extra_body": {"steps": 2}}


@pytest.fixture
def api(mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> Iterator[ServedApi]:
    with served_api(mill, folder_storage, tmp_path, wait_seconds=0.01, backlog=9) as served:
        yield served


def asked(client: OpenAI, prompt: str = "a fox", **options: object) -> APIStatusError:
    """How a request was refused; 504 is one that was taken, for nobody renders here."""
    with pytest.raises(APIStatusError) as refused:
        client.images.generate(prompt=prompt, **SMALL, **options)
    return refused.value


def test_without_keys_everybody_here_and_with_one_only_its_holder(api: ServedApi) -> None:
    assert asked(api.client()).status_code == 504
    secret = api.key("alice")
    refused = asked(api.client())
    assert isinstance(refused, AuthenticationError)
    assert refused.code == "invalid_api_key"
    assert asked(api.client(secret + "x")).status_code == 401
    assert asked(api.client(secret)).status_code == 504
    assert PATIENT.get(f"{api.base}/v1/models").status_code == 401
    assert PATIENT.get(f"{api.base}/healthz").json() == {"status": "ok"}
    api.mill.database.run(lambda session: revoke_key(session, "alice"))
    assert asked(api.client()).status_code == 401, "to revoke the last key lets nobody in"
    other = api.key("bob")
    assert asked(api.client(secret)).status_code == 401
    assert asked(api.client(other)).status_code == 504


def test_a_reader_may_not_render(api: ServedApi) -> None:
    client = api.client(api.key("dashboard", "read"))
    assert list(client.models.list())
    refused = asked(client)
    assert isinstance(refused, PermissionDeniedError)
    assert refused.code == "insufficient_permissions"


def test_the_database_has_no_secret(api: ServedApi) -> None:
    secret = api.key("alice")
    with api.mill.database.engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT * FROM api_keys").one()
    assert secret not in str(tuple(row))


def test_images_a_day(api: ServedApi) -> None:
    pass_midnight()
    client = api.client(api.key("alice", images_a_day=3))
    assert asked(client, n=2).status_code == 504
    refused = asked(client, n=2)
    assert isinstance(refused, RateLimitError)
    assert refused.code == "daily_quota_exceeded"
    assert 0 < int(refused.response.headers["retry-after"]) <= 86_401
    assert refused.response.headers["x-should-retry"] == "false"
    assert asked(client).status_code == 504
    assert asked(client).status_code == 429


def test_images_open_at_once(api: ServedApi) -> None:
    client = api.client(api.key("alice", open_images=2))
    assert asked(client, n=3).code == "open_quota_too_small"
    assert asked(client, n=2).status_code == 504
    refused = asked(client)
    assert (refused.status_code, refused.code) == (429, "open_quota_exceeded")
    assert refused.response.headers["retry-after"] == "5"
    assert asked(api.client(api.key("bob"))).status_code == 504
    while api.workshop.shift().done:
        pass
    assert asked(client, prompt="another").status_code == 504


def test_no_two_requests_pass_a_limit_together(api: ServedApi) -> None:
    pass_midnight()
    secret = api.key("alice", images_a_day=3)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(asked(api.client(secret)).status_code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [429, 429, 429, 504, 504, 504]


def test_nothing_is_taken_while_too_much_waits(api: ServedApi) -> None:
    client = api.client()
    assert asked(client, n=9).status_code == 504
    refused = asked(client)
    assert (refused.status_code, refused.code) == (429, "backlog_full")
    assert refused.response.headers["retry-after"] == "30"


def test_a_repeated_request_is_no_new_one(api: ServedApi) -> None:
    client = api.client(api.key("alice", images_a_day=1))
    key = {"extra_headers": {"Idempotency-Key": "k"}}
    jobs = {asked(client, **key).response.headers["x-imagemill-job"] for _ in range(3)}
    assert len(jobs) == 1
    other = api.client(api.key("bob"))
    assert asked(other, **key).response.headers["x-imagemill-job"] not in jobs


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Idempotency-Key": "x" * 256}, 400),
        ({}, 504),
    ],
)
def test_a_hostile_page_reaches_nothing(api: ServedApi, headers, status) -> None:
    sent = {"Content-Type": "application/json"} | headers
    body = b'{"prompt": "x", "size": "64x64", "steps": 2}'
    answer = PATIENT.post(f"{api.base}/v1/images/generations", content=body, headers=sent)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"prompt": NaN}', 400, "invalid_json"),
        (b'{"prompt": "a", "prompt": "b"}', 400, "invalid_json"),
        (b'{"prompt": "a", "sampler_options": {"eta": 0, "eta": 1}}', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"prompt": "\\ud800", "size": "64x64"}', 400, "invalid_value"),
        (b'{"prompt": "a\\u0000b", "size": "64x64"}', 400, "invalid_value"),
        (b'{"prompt": "a", "steps": 1e999}', 400, "invalid_json"),
        (b'{"prompt": "a", "user": ["\\ud800"]}', 400, "invalid_value"),
        (b'{"prompt": "a", "user": {"\\u0000": 1}}', 400, "invalid_value"),
        (b'{"prompt": "' + b"x" * (1 << 20) + b'"}', 413, "request_too_large"),
    ],
)
def test_bodies_that_are_none(api: ServedApi, body, status, code) -> None:
    headers = {"Content-Type": "application/json"}
    answer = PATIENT.post(f"{api.base}/v1/images/generations", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_an_address_that_is_none(api: ServedApi) -> None:
    for method, path, status in (
        ("GET", "/v1/completions", 404),
        ("GET", "/v1/images/generations", 405),
        ("GET", "/pictures/99999999999999999999", 404),
        ("GET", "/v1/files/%00", 400),
        ("GET", "/v1/batches?after=%00", 400),
    ):
        answer = PATIENT.request(method, f"{api.base}{path}")
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def part(name: str, content: bytes, *, more: str = "") -> bytes:
    """A part of a form whose boundary is B."""
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


PURPOSE = part("purpose", b"batch")
FILE = part("file", b"{}", more='; filename="a.jsonl"')


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (PURPOSE + FILE, None, "cut off"),
        (PURPOSE + FILE[:-9], None, "cut off"),
        (PURPOSE + FILE + FILE + b"--B--", "file", "2 files; allowed: one"),
        (PURPOSE + part("other", b"", more='; filename="a"') + b"--B--", "other", "Unknown"),
        (PURPOSE + PURPOSE + FILE + b"--B--", "purpose", "given twice"),
        (part("purpose", b"\xff") + FILE + b"--B--", "purpose", "0xff"),
        (part("purpose", b"a\0") + FILE + b"--B--", "purpose", "NUL"),
        (PURPOSE + part("file", b"", more='; filename="\0"') + b"--B--", "file", "NUL"),
    ],
)
def test_forms_that_are_none(api: ServedApi, body: bytes, param: str | None, says: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = PATIENT.post(f"{api.base}/v1/files", content=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert says in error["message"]
    assert list(api.client().files.list()) == []


def test_a_file_is_named_by_a_text_that_a_database_looks_for(api: ServedApi) -> None:
    for file in ("file-\0", "file-\ud800"):
        body = {"prompt": "a", "images": [{"file_id": file}]}
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body).encode()
        answer = PATIENT.post(f"{api.base}/v1/images/edits", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "images")

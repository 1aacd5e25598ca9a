"""`/v1/files` and `/v1/batches` with the official client, on both databases."""

import base64
import hashlib
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI
from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session

from imagemill.db.clock import seconds_from_now
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import ApiRequest
from imagemill.scheduler_jobs.api import loader as loading
from tests.helpers.http.api import PATIENT, ServedApi, served_api
from tests.helpers.machine.clock import pass_midnight
from tests.helpers.mill import Mill
from tests.integration.workers import eventually

WINDOW = {"endpoint": "/v1/images/generations", "completion_window": "24h"}


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ROUND_SECONDS", 0.05)


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    body = {"prompt": f"a fox {custom_id}", "size": "64x64", "steps": 2} | body
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/images/generations",
        "body": body,
    }


def uploaded(client: OpenAI, lines: list[Any]) -> str:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    content = "\n".join(texts).encode() + b"\n"
    return client.files.create(file=("lines.jsonl", content), purpose="batch").id


def created(client: OpenAI, lines: list[Any], **options: Any) -> Any:
    return client.batches.create(input_file_id=uploaded(client, lines), **WINDOW, **options)


def ended(client: OpenAI, batch_id: str) -> Any:
    words = {"completed", "failed", "cancelled", "expired"}
    assert eventually(lambda: client.batches.retrieve(batch_id).status in words)
    return client.batches.retrieve(batch_id)


def results(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    text = client.files.content(file_id).text
    file = client.files.retrieve(file_id)
    assert (file.bytes, file.purpose) == (len(text.encode()), "batch_output")
    return [json.loads(each) for each in text.splitlines()]


def test_fifty_images_come_back(api: ServedApi) -> None:
    client = api.client(api.key("alice"))
    lines = [line(f"r{n}", n=2, seed=n * 10) for n in range(25)]
    batch = created(client, lines, metadata={"set": "foxes"})
    assert (batch.status, batch.metadata) == ("validating", {"set": "foxes"})
    with api.working():
        batch = ended(client, batch.id)
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert batch.request_counts.model_dump() == {"total": 25, "completed": 25, "failed": 0}
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at <= batch.expires_at
    found = results(client, batch.output_file_id)
    assert [each["custom_id"] for each in found] == [f"r{n}" for n in range(25)]
    assert len({each["id"] for each in found}) == 25
    pictures = set()
    for number, each in enumerate(found):
        assert (each["error"], each["response"]["status_code"]) == (None, 200)
        data = each["response"]["body"]["data"]
        assert [image["seed"] for image in data] == [number * 10, number * 10 + 1]
        for image in data:
            body = base64.b64decode(image["b64_json"])
            assert Image.open(io.BytesIO(body)).size == (64, 64)
            pictures.add(hashlib.sha256(body).hexdigest())
    assert len(pictures) == 50
    job = api.mill.job(api.mill.image(data[0]["image_id"]).job_id)
    assert job.name == batch.id
    assert [each.id for each in client.batches.list()] == [batch.id]


def test_bad_lines_go_to_the_file_of_errors(api: ServedApi) -> None:
    client = api.client()
    lines = [
        line("good", response_format="url"),
        line("typo", stesp=3),
        line("size", size="63x64"),
        "",
        line("dead", prompt="final no picture"),
        line("model", model="gpt-image-2", user="somebody"),
        line("good2"),
    ]
    batch = created(client, lines)
    with api.working():
        batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 6, "completed": 2, "failed": 4}
    good = results(client, batch.output_file_id)
    assert [each["custom_id"] for each in good] == ["good", "good2"]
    url = good[0]["response"]["body"]["data"][0]["url"]
    assert PATIENT.get(url).headers["content-type"] == "image/png"
    bad = {each["custom_id"]: each for each in results(client, batch.error_file_id)}
    assert {name: each.get("line") for name, each in bad.items()} == {
        "typo": 2,
        "size": 3,
        "model": 6,
        "dead": None,
    }
    errors = {name: each["response"]["body"]["error"] for name, each in bad.items()}
    assert {name: (error["param"], error["code"]) for name, error in errors.items()} == {
        "typo": ("stesp", "unknown_parameter"),
        "size": ("size", "invalid_value"),
        "model": ("model", "invalid_value"),
        "dead": (None, "input_image"),
    }
    statuses = {name: each["response"]["status_code"] for name, each in bad.items()}
    assert statuses == {"typo": 400, "size": 400, "model": 400, "dead": 500}


def test_a_batch_of_bad_lines_alone_is_completed_and_has_failed(api: ServedApi) -> None:
    client = api.client()
    for lines in ([line("a", stesp=1)], [line("a", size="63x64"), line("b", stesp=1)]):
        batch = ended(client, created(client, lines).id)
        assert (batch.status, batch.output_file_id) == ("completed", None)
        assert batch.request_counts.failed == len(lines)
        found = results(client, batch.error_file_id)
        assert [each["line"] for each in found] == list(range(1, len(lines) + 1))


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([line("a"), "{"], "invalid_json_line", 2),
        ([line("a"), "[1]"], "invalid_json_line", 2),
        ([line("a"), line("b"), line("a")], "duplicate_custom_id", 3),
        ([line("a"), line("b") | {"url": "/v1/embeddings"}], "url_mismatch", 2),
        ([line("a") | {"method": "GET"}], "invalid_method", 1),
        ([{"method": "POST"}], "missing_required_parameter", 1),
        ([line("a") | {"body": None}], "missing_required_parameter", 1),
        ([line("a") | {"priority": 1}], "unknown_parameter", 1),
        ([line("a"), '{"custom_id": "b", "custom_id": "c"}'], "invalid_json_line", 2),
    ],
)
def test_a_file_that_is_no_batch_fails_as_a_whole(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, lines, code, number
) -> None:
    with served_api(sqlite_mill, folder_storage, tmp_path) as api:
        client = api.client()
        batch = ended(client, created(client, lines).id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    (error,) = batch.errors.data
    assert (error.code, error.line) == (code, number)
    assert error.message


@pytest.mark.parametrize("name", ["x\ud800", "x\0"])
def test_a_name_that_no_database_takes_is_told_in_other_characters(
    api: ServedApi, name: str
) -> None:
    client = api.client()
    batch = ended(client, created(client, [line("a") | {name: 1}]).id)
    (error,) = batch.errors.data
    assert (error.code, error.param) == (
        "unknown_parameter",
        name.encode("unicode_escape").decode(),
    )
    lines = [line(name), line("b", **{name: 1}), line("good")]
    batch = created(client, lines)
    with api.working():
        batch = ended(client, batch.id)
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 1, "failed": 2}
    found = results(client, batch.error_file_id)
    errors = [each["response"]["body"]["error"] for each in found]
    assert errors[0]["param"] == "custom_id"
    assert errors[1]["code"] == "unknown_parameter"


def test_a_bug_in_one_request_keeps_no_other_from_being_loaded(
    api_on_sqlite: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = api_on_sqlite.client()
    load = loading.Loader.load

    def breaks(loader: loading.Loader, request: Any) -> None:
        if request.document["metadata"]:
            raise RuntimeError("a bug")
        load(loader, request)

    monkeypatch.setattr(loading.Loader, "load", breaks)
    created(client, [line("a")], metadata={"is": "broken"})
    other = created(client, [line("b")]).id
    with api_on_sqlite.working():
        assert ended(client, other).status == "completed"


def test_a_batch_is_cancelled_and_keeps_what_is_done(api: ServedApi) -> None:
    client = api.client()
    batch = created(client, [line(f"r{n}") for n in range(6)])
    assert eventually(lambda: client.batches.retrieve(batch.id).status == "in_progress")
    shift = api.mill.shift()
    held = api.mill.claim(shift, limit=2)
    api.mill.complete(shift, held)
    api.mill.end(shift)
    told = client.batches.cancel(batch.id)
    assert told.status in {"cancelling", "cancelled"}
    batch = ended(client, batch.id)
    assert batch.status == "cancelled"
    assert batch.request_counts.model_dump() == {"total": 6, "completed": 2, "failed": 0}
    errors = [
        json.loads(each) for each in client.files.content(batch.error_file_id).text.splitlines()
    ]
    assert [each["error"]["code"] for each in errors] == ["batch_cancelled"] * 4
    over = ended(client, created(client, [line("x", stesp=1)]).id)
    for batch_id, status in ((over.id, 409), (batch.id + "x", 404)):
        with pytest.raises(APIStatusError) as refused:
            client.batches.cancel(batch_id)
        assert refused.value.status_code == status


def test_a_batch_that_is_cancelled_while_its_end_is_looked_for_is_cancelled(
    api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = api.client()
    batch = created(client, [line("a"), line("b")])
    assert eventually(lambda: client.batches.retrieve(batch.id).status == "in_progress")
    count = loading.count_images

    def cancelled_before(session: Session, job_ids: list[int]) -> Any:
        """The loader has read the batch as one that goes on, and has not counted yet."""
        if job_ids and client.batches.retrieve(batch.id).status == "in_progress":
            client.batches.cancel(batch.id)
        return count(session, job_ids)

    monkeypatch.setattr(loading, "count_images", cancelled_before)
    assert ended(client, batch.id).status == "cancelled"


def test_a_batch_whose_time_is_over_expires(api: ServedApi) -> None:
    client = api.client()
    batch = created(client, [line("a"), line("b")])
    assert (batch.expires_at - batch.created_at) == timedelta(hours=24).total_seconds()
    assert eventually(lambda: client.batches.retrieve(batch.id).status == "in_progress")
    past = update(ApiRequest).values(expires_at=seconds_from_now(-1))
    api.mill.database.run(lambda session: session.execute(past))
    batch = ended(client, batch.id)
    assert (batch.status, batch.cancelled_at) == ("expired", None)
    text = client.files.content(batch.error_file_id).text
    assert [json.loads(each)["error"]["code"] for each in text.splitlines()] == [
        "batch_expired"
    ] * 2


def test_the_same_key_makes_one_batch(api: ServedApi) -> None:
    pass_midnight()
    client = api.client(api.key("alice", images_a_day=3))
    file = uploaded(client, [line("a"), line("b")])
    asked = {"input_file_id": file, **WINDOW, "extra_headers": {"Idempotency-Key": "one"}}
    first, again = client.batches.create(**asked), client.batches.create(**asked)
    assert first.id == again.id
    with pytest.raises(APIStatusError) as over:
        client.batches.create(input_file_id=file, **WINDOW)
    assert over.value.code == "daily_quota_exceeded"
    assert eventually(lambda: client.batches.retrieve(first.id).status == "in_progress")


def test_everybody_sees_their_own(api: ServedApi) -> None:
    alice, bob = api.client(api.key("alice")), api.client(api.key("bob"))
    reader, admin = api.client(api.key("eye", "read")), api.client(api.key("root", "admin"))
    file = uploaded(alice, [line("a")])
    batch = alice.batches.create(input_file_id=file, **WINDOW)
    assert [each.id for each in alice.files.list()] == [file]
    for client in (reader, admin):
        assert client.files.retrieve(file).filename == "lines.jsonl"
        assert client.batches.retrieve(batch.id).id == batch.id
    assert list(bob.files.list()) == list(bob.batches.list()) == []
    for call in (
        lambda: bob.files.content(file),
        lambda: bob.files.delete(file),
        lambda: bob.batches.retrieve(batch.id),
        lambda: bob.batches.cancel(batch.id),
        lambda: bob.batches.create(input_file_id=file, **WINDOW),
    ):
        with pytest.raises(APIStatusError) as hidden:
            call()
        assert hidden.value.status_code in {400, 404}
    with pytest.raises(APIStatusError) as forbidden:
        reader.batches.cancel(batch.id)
    assert forbidden.value.status_code == 403
    assert eventually(lambda: alice.batches.retrieve(batch.id).status == "in_progress")
    assert admin.batches.cancel(batch.id).status in {"cancelling", "cancelled"}


def test_files(sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> None:
    with served_api(sqlite_mill, folder_storage, tmp_path, file_bytes=2000) as api:
        client = api.client()
        content = bytes(range(256)) + b"\r\n--x\r\n\n"
        file = client.files.create(file=("ä b.jsonl", content), purpose="batch")
        assert (file.bytes, file.status) == (len(content), "processed")
        assert client.files.content(file.id).content == content
        others = [client.files.create(file=b"x", purpose="batch").id for _ in range(2)]
        listed = [each.id for each in client.files.list(limit=1)]
        assert sorted(listed) == sorted([file.id, *others])
        assert client.files.delete(file.id).deleted
        with pytest.raises(APIStatusError) as gone:
            client.files.content(file.id)
        assert gone.value.status_code == 404
        with pytest.raises(APIStatusError) as purpose:
            client.files.create(file=b"x", purpose="fine-tune")
        assert purpose.value.param == "purpose"
        for empty in (b"", b"\n \n"):
            with pytest.raises(APIStatusError) as nothing:
                client.files.create(file=("empty.jsonl", empty), purpose="batch")
            assert (nothing.value.status_code, nothing.value.code) == (400, "empty_file")
        with pytest.raises(APIStatusError) as large:
            client.files.create(file=b"x" * 2001, purpose="batch")
        assert (large.value.status_code, large.value.code) == (413, "request_too_large")
        picture = client.files.create(file=b"x", purpose="vision").id
        for changes, param in (
            ({"input_file_id": picture}, "input_file_id"),
            ({"endpoint": "/v1/embeddings"}, "endpoint"),
            ({"completion_window": "soon"}, "completion_window"),
            ({"metadata": {"a": "x" * 513}}, "metadata"),
            ({"input_file_id": "file-x"}, "input_file_id"),
            ({"extra_body": {"priority": 1}}, "priority"),
        ):
            with pytest.raises(APIStatusError) as bad:
                client.batches.create(**({"input_file_id": others[0]} | WINDOW | changes))
            assert (bad.value.status_code, bad.value.param) == (400, param)

"""Batches of edits, and JSON instead of a form: pictures by file id and as data URLs."""

import base64
import json
from typing import Any

import pytest
from openai import OpenAI

from imagemill.db.storage.inputs import fetch_input, input_key
from imagemill.scheduler_jobs.api import loader
from tests.contract.api.test_edits import half_transparent, inputs, noise, sha256
from tests.helpers.http.api import PATIENT, ServedApi
from tests.integration.workers import eventually

URL = "/v1/images/edits"


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "ROUND_SECONDS", 0.05)


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(client: OpenAI, content: bytes) -> str:
    return client.files.create(file=("x.png", content), purpose="vision").id


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    body = {"prompt": f"a fox {custom_id}", "size": "64x64", "steps": 2} | body
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": body}


def ended(client: OpenAI, lines: list[Any]) -> Any:
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    words = {"completed", "failed"}
    assert eventually(lambda: client.batches.retrieve(batch.id).status in words)
    return client.batches.retrieve(batch.id)


def results(client: OpenAI, file_id: str) -> dict[str, Any]:
    lines = map(json.loads, client.files.content(file_id).text.splitlines())
    return {each["custom_id"]: each["response"]["body"] for each in lines}


def test_pictures_come_by_file_id_and_as_data_urls(api: ServedApi) -> None:
    client: OpenAI = api.client()
    start, other = noise(), noise(size=32)
    file = picture(client, start)
    mask = {"image_url": data_url(half_transparent())}
    with api.working():
        batch = ended(
            client,
            [
                line("by-id", images=[{"file_id": file}], seed=3, strength=0.6),
                line("again", images=[{"file_id": file, "image_url": None}], n=2),
                line("by-url", images=[{"image_url": data_url(other)}]),
                line("as-text", image=file, mask=mask),
            ],
        )
    assert batch.status == "completed", batch.errors
    assert (batch.endpoint, batch.request_counts.completed) == (URL, 4)
    made = {
        name: [api.mill.image(each["image_id"]).options for each in body["data"]]
        for name, body in results(client, batch.output_file_id).items()
    }
    assert made["by-id"][0]["init_image"] == sha256(start)
    assert made["by-id"][0]["strength"] == 0.6
    assert [each["init_image"] for each in made["again"]] == [sha256(start)] * 2
    assert made["by-url"][0]["init_image"] == sha256(other)
    white = made["as-text"][0]["mask"]
    assert white != sha256(half_transparent()), "it was turned into a manifest's"
    assert sorted(inputs(api)) == sorted(map(input_key, [sha256(start), sha256(other), white]))
    assert fetch_input(api.workshop.storage, sha256(start)) == start


def test_what_can_not_be_used_goes_to_the_file_of_errors(api_on_sqlite: ServedApi) -> None:
    client: OpenAI = api_on_sqlite.client()
    file = picture(client, noise())
    text = client.files.create(file=("x.txt", b"no picture"), purpose="user_data").id
    one_picture = [{"file_id": file}]
    bad: dict[str, dict[str, Any]] = {
        "address": {"images": [{"image_url": "https://example.org/x.png"}]},
        "nobody": {"images": [{"file_id": "file-nobody"}]},
        "half": {"images": [{"file_id": "file-\ud800"}]},
        "nul": {"images": [{"file_id": "file-\0"}]},
        "no-picture": {"images": [{"file_id": text}]},
        "no-base64": {"images": [{"image_url": "data:image/png;base64,%%"}]},
        "path": {"images": ["/etc/passwd"]},
        "both": {"images": [{"file_id": file, "image_url": data_url(noise())}]},
        "more": {"images": [{"file_id": file, "detail": "high"}]},
        "two": {"images": one_picture * 2},
        "none": {},
        "no-list": {"images": {"file_id": file}},
        "bad-mask": {"images": one_picture, "mask": {"file_id": "file-nobody"}},
        "unknown": {"images": one_picture, "stesp": 3},
        "model": {"images": one_picture, "model": "nobody"},
    }
    with api_on_sqlite.working():
        batch = ended(client, [line(name, **body) for name, body in bad.items()])
    assert batch.status == "completed", batch.errors
    errors = results(client, batch.error_file_id)
    assert {name: body["error"]["param"] for name, body in errors.items()} == {
        **dict.fromkeys(("address", "nobody", "no-picture", "no-base64", "path"), "image"),
        **dict.fromkeys(("both", "more", "half", "nul"), "image"),
        **dict.fromkeys(("two", "none", "no-list"), "images"),
        "bad-mask": "mask",
        "unknown": "stesp",
        "model": "model",
    }
    assert "fetches no address" in errors["address"]["error"]["message"]
    assert "No such File object" in errors["nobody"]["error"]["message"]


def test_lines_of_another_endpoint_fail_the_batch(api_on_sqlite: ServedApi) -> None:
    client: OpenAI = api_on_sqlite.client()
    other = line("a") | {"url": "/v1/images/generations"}
    batch = ended(client, [other])
    assert batch.status == "failed"
    assert [each.code for each in batch.errors.data] == ["url_mismatch"]
    assert inputs(api_on_sqlite) == []


def test_nobody_uses_the_pictures_of_others(api_on_sqlite: ServedApi) -> None:
    alice, bob = (api_on_sqlite.client(api_on_sqlite.key(name)) for name in ("alice", "bob"))
    file = picture(alice, noise())
    lines = [line("a", images=[{"file_id": file}])]
    with api_on_sqlite.working():
        assert ended(alice, lines).request_counts.completed == 1
        batch = ended(bob, lines)
    assert "No such File object" in results(bob, batch.error_file_id)["a"]["error"]["message"]


def test_a_single_request_may_be_json_too(api_on_sqlite: ServedApi) -> None:
    client: OpenAI = api_on_sqlite.client()
    content = noise()
    body = {"prompt": "a red star", "size": "64x64", "steps": 2}
    given = [{"file_id": picture(client, content)}, {"image_url": data_url(content)}]
    with api_on_sqlite.working():
        answers = [
            PATIENT.post(f"{api_on_sqlite.base}{URL}", json={**body, "images": [each], "seed": 5})
            for each in given
        ]
    first, second = (answer.json()["data"][0] for answer in answers)
    assert api_on_sqlite.mill.image(first["image_id"]).options["init_image"] == sha256(content)
    assert first["b64_json"] == second["b64_json"]
    refused = PATIENT.post(
        f"{api_on_sqlite.base}{URL}", json={**body, "images": [{"file_id": "file-x"}]}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_found")

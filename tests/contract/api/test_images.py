"""`POST /v1/images/generations` with the official client, on both databases."""

import base64
import io
from pathlib import Path

import pytest
from openai import APIStatusError, BadRequestError, OpenAI
from PIL import Image

from imagemill.db.storage.folder import FolderStorage
from tests.helpers.http.api import PATIENT, ServedApi, served_api
from tests.helpers.mill import Mill

SMALL = {"size": "64x64", "extra_body": {"steps": 2}}


def picture(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def test_a_request_gets_its_pictures(api: ServedApi) -> None:
    client: OpenAI = api.client()
    with api.working():
        answer = client.images.generate(
            prompt="a red circle",
            model="shapes64",
            n=2,
            size="64x64",
            output_format="webp",
            extra_body={"seed": 7, "steps": 2, "guidance": 3.5, "sampler": "Euler a"},
        )
    assert (answer.output_format, answer.size) == ("webp", "64x64")
    pictures = [picture(each.b64_json) for each in answer.data or []]
    assert [(each.format, each.size) for each in pictures] == [("WEBP", (64, 64))] * 2
    first, second = (api.mill.image(each.image_id) for each in answer.data)
    assert [first.seed, second.seed] == [7, 8] == [each.seed for each in answer.data]
    assert (first.prompt, first.guidance_scale, first.sampler) == ("a red circle", 3.5, "euler_a")
    job = api.mill.job(first.job_id)
    assert job.priority == 1
    assert job.name.startswith("imgreq_")


def test_the_same_prompt_gives_new_pictures_unless_the_seed_is_said(api: ServedApi) -> None:
    client = api.client()
    with api.working():
        asked = [client.images.generate(prompt="a cat", **SMALL) for _ in range(2)]
        seeds = {each.data[0].seed for each in asked}
        assert len(seeds) == 2
        extra = {"extra_body": {"steps": 2, "seed": asked[0].data[0].seed}}
        again = client.images.generate(prompt="a cat", size="64x64", **extra)
    assert again.data[0].b64_json == asked[0].data[0].b64_json


def test_an_address_in_the_place_of_bytes(api: ServedApi) -> None:
    secret = api.key("alice")
    with api.working():
        answer = api.client(secret).images.generate(prompt="a star", response_format="url", **SMALL)
    url = answer.data[0].url
    found = PATIENT.get(url)
    assert found.status_code == 200
    assert Image.open(io.BytesIO(found.content)).size == (64, 64)
    assert found.headers["content-type"] == "image/png"
    unsigned = url.partition("?")[0]
    assert PATIENT.get(unsigned).status_code == 403
    assert PATIENT.get(url.replace("signature=", "signature=0")).status_code == 403


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"prompt": "x", "extra_body": {"stesp": 3}}, "stesp", "unknown_parameter"),
        ({"prompt": "x", "extra_body": {"init_image": "a.png"}}, "init_image", "unknown_parameter"),
        ({"prompt": "x", "extra_body": {"id": "a"}}, "id", "unknown_parameter"),
        ({"prompt": "x", "n": 11}, "n", "invalid_value"),
        ({"prompt": "x", "size": "63x64"}, "size", "invalid_value"),
        ({"prompt": "x", "model": "dall-e-3"}, "model", "invalid_value"),
        ({"prompt": "x", "quality": "hd"}, "quality", "invalid_value"),
        ({"prompt": "x", "style": "vivid"}, "style", "invalid_value"),
        ({"prompt": "x", "background": "transparent"}, "background", "invalid_value"),
        ({"prompt": "x", "output_format": "gif"}, "output_format", "invalid_value"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": 7}, "prompt", "missing_required_parameter"),
        ({"prompt": "x", "extra_body": {"steps": "many"}}, "steps", "invalid_value"),
        ({"prompt": "x", "extra_body": {"samples": 2}}, "samples", "unknown_parameter"),
    ],
)
def test_what_can_not_be_rendered_is_refused_in_openais_words(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, asked, param, code
) -> None:
    served = served_api(sqlite_mill, folder_storage, tmp_path)
    with served as api, pytest.raises(BadRequestError) as refused:
        api.client().images.generate(**asked)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"
    assert refused.value.message
    assert "rows:" not in refused.value.message


def test_a_picture_that_can_not_be_drawn(api: ServedApi) -> None:
    with api.working(), pytest.raises(APIStatusError) as failed:
        api.client().images.generate(prompt="final no picture", **SMALL)
    assert failed.value.status_code == 500
    assert failed.value.code == "input_image"
    assert failed.value.response.headers["x-should-retry"] == "false"


def test_a_stream_gives_each_picture_and_then_the_error(api: ServedApi) -> None:
    client = api.client()
    with api.working():
        events = list(client.images.generate(prompt="a ring", n=3, stream=True, **SMALL))
        assert [each.type for each in events] == ["image_generation.completed"] * 3
        assert {picture(each.b64_json).size for each in events} == {(64, 64)}
        with pytest.raises(Exception, match="its input is no picture"):
            list(client.images.generate(prompt="final x", stream=True, **SMALL))


def test_who_does_not_wait_gets_the_same_pictures_later(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    key = {"extra_headers": {"Idempotency-Key": "one of mine"}}
    with served_api(mill, folder_storage, tmp_path, wait_seconds=0.3) as api:
        client = api.client()
        with pytest.raises(APIStatusError) as late:
            client.images.generate(prompt="a heart", **SMALL, **key)
        assert late.value.status_code == 504
        assert late.value.code == "not_finished"
        job = int(late.value.response.headers["x-imagemill-job"])
        assert "x-should-retry" not in late.value.response.headers
        assert api.mill.counts(job).ready == 1
        while api.mill.counts(job).pending:
            api.workshop.shift()
        first = client.images.generate(prompt="a heart", **SMALL, **key)
        again = client.images.generate(prompt="a heart", **SMALL, **key)
        assert first.data[0].image_id == again.data[0].image_id
        assert api.mill.image(first.data[0].image_id).job_id == job
        with pytest.raises(APIStatusError) as other:
            client.images.generate(prompt="another heart", **SMALL, **key)
        assert (other.value.status_code, other.value.code) == (422, "idempotency_key_reused")
        with pytest.raises(APIStatusError) as unkeyed:
            client.images.generate(prompt="a cross", **SMALL)
        assert unkeyed.value.response.headers["x-should-retry"] == "false"
        given = unkeyed.value.response.headers["idempotency-key"]
        assert given in unkeyed.value.message
        api.workshop.shift()
        named = {"extra_headers": {"Idempotency-Key": given}}
        assert client.images.generate(prompt="a cross", **SMALL, **named).data


def test_pictures_that_are_there_are_given_to_who_can_not_wait(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    key = {"extra_headers": {"Idempotency-Key": "no time"}}
    with served_api(mill, folder_storage, tmp_path, wait_seconds=0) as api:
        client = api.client()
        with pytest.raises(APIStatusError) as late:
            client.images.generate(prompt="a heart", **SMALL, **key)
        job = int(late.value.response.headers["x-imagemill-job"])
        while api.mill.counts(job).pending:
            api.workshop.shift()
        assert client.images.generate(prompt="a heart", **SMALL, **key).data


def test_models_are_those_of_the_registry(api: ServedApi) -> None:
    client = api.client()
    assert [model.id for model in client.models.list()] == ["shapes64"]
    assert client.models.retrieve("shapes64").owned_by == "imagemill"
    with pytest.raises(APIStatusError) as unknown:
        client.models.retrieve("gpt-image-2")
    assert (unknown.value.status_code, unknown.value.code) == (404, "not_found")

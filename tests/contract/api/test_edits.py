"""`POST /v1/images/edits` with the official client, on both databases."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, OpenAI, RateLimitError
from PIL import Image

from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.storage.inputs import fetch_input, input_key
from imagemill.scheduler_jobs.api.refusals import ApiError
from imagemill.scheduler_jobs.api.requests import edits
from tests.helpers.http.api import PATIENT, ServedApi, served_api
from tests.helpers.mill import Mill

SMALL = {"prompt": "a red star", "size": "64x64", "extra_body": {"steps": 4}}


def noise(mode: str = "RGB", size: int = 64, form: str = "PNG") -> bytes:
    """A file whose bytes are of all values: line ends and zeros among them."""
    shape = (size, size, len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(buffer, form)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def half_transparent() -> bytes:
    """Transparent on the left, as OpenAI's clients mark what is to be painted."""
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 32, 64))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def inputs(api: ServedApi) -> list[str]:
    return [found.key for found in api.workshop.storage.list("inputs")]


def test_a_picture_is_the_start_of_several_and_is_stored_once(api: ServedApi) -> None:
    client: OpenAI = api.client()
    content = noise()
    extra = {"steps": 4, "strength": 0.6, "seed": 7, "guidance": 3.5}
    asked: dict[str, Any] = SMALL | {"n": 2, "extra_body": extra, "output_format": "webp"}
    with api.working():
        answer = client.images.edit(image=("x.png", content), **asked)
        again = client.images.edit(image=[("other-name.png", content)], **asked)
    first, second = (api.mill.image(each.image_id) for each in answer.data)
    assert [first.seed, second.seed] == [7, 8] == [each.seed for each in answer.data]
    assert (first.prompt, first.steps, first.format) == ("a red star", 4, "webp")
    assert first.options["init_image"] == sha256(content)
    assert first.options["strength"] == 0.6
    assert fetch_input(api.workshop.storage, sha256(content)) == content, "byte for byte"
    assert inputs(api) == [input_key(sha256(content))]
    assert [each.b64_json for each in again.data] == [each.b64_json for each in answer.data]


def test_a_transparent_mask_is_white_where_it_is_painted(api: ServedApi) -> None:
    content = noise()
    with api.working():
        answer = api.client().images.edit(
            image=("x.png", content), mask=("m.png", half_transparent()), **SMALL
        )
        ours = api.client().images.edit(
            image=("x.png", content), mask=("m.png", noise("L")), **SMALL
        )
    made = api.mill.image(answer.data[0].image_id).options
    assert made["init_image"] == sha256(content)
    white = Image.open(io.BytesIO(fetch_input(api.workshop.storage, made["mask"])))
    pixels = np.asarray(white.convert("L"))
    assert (pixels[:, :32] == 255).all()
    assert (pixels[:, 32:] == 0).all()
    kept = api.mill.image(ours.data[0].image_id).options["mask"]
    assert kept == sha256(noise("L")), "a mask without transparency is a manifest's own"


def test_the_same_key_is_the_same_request_if_its_pictures_are_the_same(api: ServedApi) -> None:
    key = {"extra_headers": {"Idempotency-Key": "edit-1"}}
    client = api.client()
    with api.working():
        first = client.images.edit(image=("x.png", noise()), **SMALL, **key)
        again = client.images.edit(image=("x.png", noise()), **SMALL, **key)
        assert again.data[0].image_id == first.data[0].image_id
        with pytest.raises(Exception, match="with another request"):
            client.images.edit(image=("x.png", noise(size=32)), **SMALL, **key)


def test_a_stream_has_the_events_of_edits(api_on_sqlite: ServedApi) -> None:
    with api_on_sqlite.working():
        events = list(
            api_on_sqlite.client().images.edit(image=("x.png", noise()), stream=True, **SMALL)
        )
    assert [each.type for each in events] == ["image_edit.completed"]


def test_a_model_that_changes_a_reference_gets_it_as_one(
    api_on_sqlite: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "_takes_reference", lambda *_: True)
    with pytest.raises(BadRequestError) as refused:
        api_on_sqlite.client().images.edit(image=("x.png", noise()), **SMALL)
    assert refused.value.param == "reference_image", "which shapes64 does not take"


def test_which_models_change_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load()
    assert not edits._takes_reference("shapes64", settings)
    assert not edits._takes_reference("nobody", settings)
    known = model_facts(load_registry(settings).find("shapes64"))
    editing = replace(known, inputs=replace(known.inputs, reference="must"))
    monkeypatch.setattr(edits, "model_facts", lambda _: editing)
    assert edits._takes_reference(None, settings)


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"image": ("x.png", b"no picture")}, "image", "invalid_value"),
        ({"image": ("x.gif", noise("L", form="GIF"))}, "image", "invalid_value"),
        ({"image": [("a.png", noise()), ("b.png", noise())]}, "image", "invalid_value"),
        ({"mask": ("m.png", b"no picture")}, "mask", "invalid_value"),
        ({"mask": ("m.png", noise("L", size=32))}, "mask", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"size": "63x64"}, "size", "invalid_value"),
        ({"extra_body": {"stesp": 3}}, "stesp", "unknown_parameter"),
        ({"extra_body": {"steps": "many"}}, "steps", "invalid_value"),
        ({"extra_body": {"strength": 2}}, "strength", "invalid_value"),
        ({"extra_body": {"init_image": "a.png"}}, "init_image", "unknown_parameter"),
        ({"input_fidelity": "high"}, "input_fidelity", "unknown_parameter"),
    ],
)
def test_what_can_not_be_used_is_refused_and_leaves_no_file(
    api_on_sqlite: ServedApi, given: dict[str, Any], param: str, code: str
) -> None:
    asked: dict[str, Any] = {"image": ("x.png", noise())} | SMALL | given
    with pytest.raises(BadRequestError) as refused:
        api_on_sqlite.client().images.edit(**asked)
    assert (refused.value.param, refused.value.code) == (param, code)


def lying(width: int, height: int) -> bytes:
    """A JPEG of this size once it is turned upright, as its EXIF says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (height, width)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_a_mask_has_the_size_of_the_picture_that_is_seen(api_on_sqlite: ServedApi) -> None:
    mask = Image.new("L", (96, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    asked = SMALL | {"mask": ("m.png", buffer.getvalue())}
    with api_on_sqlite.working():
        made = api_on_sqlite.client().images.edit(image=("x.jpg", lying(96, 64)), **asked)
    assert made.data
    with pytest.raises(BadRequestError, match="96x64; allowed: the size of 'image', 64x96"):
        api_on_sqlite.client().images.edit(image=("x.jpg", lying(64, 96)), **asked)


def test_a_key_twice_in_a_field_of_a_form_is_refused(api_on_sqlite: ServedApi) -> None:
    fields = {"prompt": (None, "x"), "sampler_options": (None, '{"eta": 0, "eta": 1}')}
    answer = PATIENT.post(
        f"{api_on_sqlite.base}/v1/images/edits", files={"image": ("x.png", noise()), **fields}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "sampler_options")
    assert "twice" in error["message"]


def test_a_request_without_a_picture_is_refused(api_on_sqlite: ServedApi) -> None:
    url = f"{api_on_sqlite.base}/v1/images/edits"
    answer = PATIENT.post(url, files={"prompt": (None, "x")})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "missing_required_parameter"
    answer = PATIENT.post(url, json={"prompt": "x"})
    assert answer.json()["error"]["code"] == "missing_required_parameter"
    assert PATIENT.post(url, content=b"x", headers={"content-type": "text/csv"}).status_code == 415
    answer = PATIENT.post(url, files={"image": ("x.png", noise()), "more": ("y.png", noise())})
    assert answer.json()["error"]["code"] == "unknown_parameter"


def test_a_request_over_a_limit_leaves_nothing_in_the_store(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    with served_api(sqlite_mill, folder_storage, tmp_path, file_bytes=20_000) as api:
        secret = api.key("alice", images_a_day=1)
        with pytest.raises(RateLimitError):
            api.client(secret).images.edit(image=("x.png", noise()), n=2, **SMALL)
        answer = PATIENT.post(
            f"{api.base}/v1/images/edits",
            files={"image": ("x.png", noise(size=128)), "prompt": (None, "x")},
            headers={"authorization": f"Bearer {secret}"},
        )
        assert answer.status_code == 413
        assert inputs(api) == []


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = noise(size=128)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ApiError, match="128x128; allowed: 4,096 pixels in all"):
        edits._open("image", content, Settings.load(max_pixels=4096))

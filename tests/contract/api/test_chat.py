"""`POST /v1/chat/completions` with the official client, on both databases."""

import base64
import io
from pathlib import Path

import pytest
from openai import BadRequestError
from PIL import Image

from imagemill.db.storage.folder import FolderStorage
from tests.helpers.http.api import ServedApi, served_api
from tests.helpers.mill import Mill

ASKED = {"role": "user", "content": "a red circle"}


@pytest.mark.parametrize(
    "content", ["a red circle", [{"type": "text", "text": "a red circle"}]], ids=["text", "parts"]
)
def test_a_chat_gets_a_picture_for_each_choice(api: ServedApi, content) -> None:
    with api.working():
        answer = api.client().chat.completions.create(
            model="shapes64",
            messages=[{"role": "user", "content": content}],
            n=2,
            extra_body={"modalities": ["image", "text"], "size": "64x64", "steps": 2, "seed": 7},
        )
    assert (answer.object, answer.model) == ("chat.completion", "shapes64")
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice, seed in zip(answer.choices, (7, 8), strict=True):
        [found] = choice.message.images
        head, _, data = found["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64)
        image = api.mill.image(found["image_id"])
        assert (image.seed, image.prompt) == (seed, "a red circle")


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"messages": []}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "system", "content": "Be kind."}, ASKED]}, "messages", None),
        ({"messages": [{"role": "assistant", "content": "a cat"}]}, "messages", None),
        ({"messages": [{"role": "user", "content": 7}]}, "messages", None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", None),
        ({"messages": [ASKED], "stream": True}, "stream", None),
        (
            {"messages": [ASKED], "response_format": {"type": "json_object"}},
            "response_format",
            None,
        ),
        ({"messages": [ASKED], "extra_body": {"modalities": ["text"]}}, "modalities", None),
        ({"messages": [ASKED], "temperature": 0.5}, "temperature", "unknown_parameter"),
        ({"messages": [ASKED], "extra_body": {"prompt": "x"}}, "prompt", "unknown_parameter"),
    ],
)
def test_what_is_no_wish_for_a_picture_is_refused(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, asked, param, code
) -> None:
    served = served_api(sqlite_mill, folder_storage, tmp_path)
    with served as api, pytest.raises(BadRequestError) as refused:
        api.client().chat.completions.create(model="shapes64", **asked)
    assert (refused.value.param, refused.value.code) == (param, code or "invalid_value")

"""The samples in docs/files.md run, and show what is really in a file."""

import json
import re

import numpy as np
import pytest

from imagemill.db.specs import ImageSpec
from imagemill.worker.files.encoder import encode
from imagemill.worker.files.infotext import infotext
from imagemill.worker.files.records import ImageRecord, pixels_sha256
from tests.helpers.places import ROOT

DOCUMENT = (ROOT / "docs" / "files.md").read_text("utf-8")


def samples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def shown_record() -> ImageRecord:
    document = json.loads(samples("json")[0])
    return ImageRecord(
        spec=ImageSpec.from_document(document["spec"]),
        environment=document["environment"],
        pixels_sha256=document["pixels_sha256"],
        version=document["imagemill"],
    )


def test_the_record_shown_is_one_that_imagemill_writes():
    assert json.loads(samples("json")[0]) == json.loads(shown_record().to_json())


def test_the_infotext_shown_is_that_of_the_record_shown():
    record = shown_record()
    assert samples("text")[0].rstrip("\n") == infotext(record.spec, version=record.version)


@pytest.mark.parametrize("code", samples("python"))
def test_the_code_shown_reads_a_file(code, tmp_path, monkeypatch, capsys):
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert shown_record().pixels_sha256 == pixels_sha256(pixels)
    (tmp_path / "picture.png").write_bytes(encode(pixels, shown_record()).body)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/files.md", "exec"), {})
    assert "a red circle on a blue background 2891336453" in capsys.readouterr().out

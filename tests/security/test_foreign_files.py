"""Pictures from anywhere: what they say of themselves gets no machine and no terminal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagemill.db.errors import InputImageError, RecordError
from imagemill.db.input_pictures import read_picture_file
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.storage.inputs import MAX_INPUT_BYTES, fetch_input, input_key
from imagemill.worker.cli import reproduce as reproducing
from imagemill.worker.files.encoder import encode
from imagemill.worker.files.records import ImageRecord, pixels_sha256
from imagemill.worker.reproducibility.reproduce import Reproduction
from tests.helpers.mill import spec
from tests.security.conftest import BIDI_AND_CONTROLS

PIXELS = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


def picture(folder: Path, *, environment: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A PNG that any program might have written, with a record that fits together."""
    record = ImageRecord(
        spec=replace(spec(BIDI_AND_CONTROLS), **changes),
        environment=environment or {},
        pixels_sha256=pixels_sha256(PIXELS),
    )
    file = folder / "picture.png"
    file.write_bytes(encode(PIXELS, record).body)
    return file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 10**9}, "steps: 1,000,000,000 where this worker allows"),
        ({"steps": "many"}, "steps: Input should be a valid integer"),
        ({"windows": 10**9}, "windows for prompts"),
        ({"prompt": "x" * 10**6}, "bytes of prompt"),
        ({"sampler": "os.system"}, "no sampler is called"),
        ({"init_image": "../../../etc/passwd"}, "init_image: not the SHA-256 of a file"),
        ({"environment": {"shapes": {"slots": 10**9}}}, "slots: 1000000000 where 1 to 512"),
        ({"environment": {"shapes": {"slots": BIDI_AND_CONTROLS}}}, "slots: a cat"),
        ({"environment": {"shapes": [1]}}, "shapes: [1] where a table is allowed"),
        ({"environment": {"shapes": 5}}, "shapes: 5 where a table is allowed"),
        ({"environment": {"threads": 10**6}}, "threads: 1000000 where"),
        ({"environment": {"threads": -1}}, "threads: -1 where"),
        ({"environment": {"threads": 0.5}}, "threads: 0.5 where"),
    ],
    ids=str,
)
def test_a_record_that_asks_for_too_much_is_not_rendered(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    file = picture(tmp_path, **changes)
    with pytest.raises(RecordError) as caught:
        reproducing.collect(Settings.load(), what=[str(file)], job=None, sample=1)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_record_within_the_limits_is_a_sample(tmp_path: Path) -> None:
    file = picture(tmp_path, environment={"shapes": {"slots": 4}, "threads": 1})
    (sample,) = reproducing.collect(Settings.load(), what=[str(file)], job=None, sample=1)
    assert sample.spec.prompt == BIDI_AND_CONTROLS


@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_record_says_reaches_no_terminal_raw(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {BIDI_AND_CONTROLS: (BIDI_AND_CONTROLS * 1000, None)}
    facts: dict[str, Any] = {"name": BIDI_AND_CONTROLS, "identical": False, "psnr": 20.0}
    verdicts = [
        Reproduction(**facts, changed=changed),
        Reproduction(**facts, changed={}, error=f"failed on {BIDI_AND_CONTROLS}"),
    ]
    monkeypatch.setattr(reproducing, "reproduce", lambda *_, **__: iter(verdicts))
    reproducing.report([], Settings.load(), as_json=as_json)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    if as_json:
        assert json.loads(lines[0])["file"] == BIDI_AND_CONTROLS
    else:
        assert len(lines[0]) < 1000


def test_an_input_that_submit_would_have_refused_is_not_read(tmp_path: Path) -> None:
    """Somebody put it into the store by another way."""
    store = FolderStorage(tmp_path)
    digest = "a" * 64
    file = tmp_path / input_key(digest)
    file.parent.mkdir(parents=True)
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputImageError, match=r"has 1,099,511,627,776 bytes; allowed: 67,108,864"):
        fetch_input(store, digest)


def test_a_picture_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputImageError, match=f"more than {MAX_INPUT_BYTES:,} bytes"):
        read_picture_file(file, max_pixels=100)

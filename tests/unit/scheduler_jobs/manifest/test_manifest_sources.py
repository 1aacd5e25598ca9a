"""Where a manifest comes from."""

import errno
import hashlib
import io
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from imagemill.db.errors import ManifestError, StorageError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import ManifestRow, Source, open_source, read_manifest
from imagemill.scheduler_jobs.manifest.sources.source import prompts_source
from tests.unit.manifests import LIMITS

CONTENT = b"prompt,seed\na cat,1\na dog,2\n"


def prompts(source: Source) -> list[str]:
    found = list(read_manifest(source, limits=LIMITS))
    return [item.prompt if isinstance(item, ManifestRow) else str(item) for item in found]


def check(source: Source) -> None:
    assert prompts(source) == ["a cat", "a dog"]
    assert prompts(source) == ["a cat", "a dog"], "a source can be read again"
    assert source.fingerprint() == hashlib.sha256(CONTENT).hexdigest()


def test_a_path(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(CONTENT)
    with open_source(str(path), Settings()) as source:
        assert source.name == str(path)
        check(source)
    assert path.exists()


def test_standard_input_is_spooled_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(CONTENT)))
    with open_source("-", Settings()) as source:
        assert source.name == "stdin"
        check(source)
        spooled = source.path
        assert spooled.exists()
    assert not spooled.exists()


KILLED = """
import os, signal
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest.sources.source import open_source
source = open_source("-", Settings())
print(source.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_spooled_goes_with_the_next_manifest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run(command, input=CONTENT, stdout=subprocess.PIPE, check=False)
    left = Path(killed.stdout.decode().strip())
    assert left.read_bytes() == CONTENT
    with prompts_source(["a cat"]):
        assert not left.exists()
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_read_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(CONTENT,))
    writer.start()
    with open_source(str(path), Settings()) as source:
        check(source)
    writer.join()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing.csv", "nothing.csv: no such file"),
        (".", ".: a folder without prompts in .txt files and without a saved data set; name its"),
        ("a\0b", "can't be read"),
        ("s3://bucket", "s3://bucket: not an object's address; s3://bucket/key"),
        ("s3:///key", "s3:///key: not an object's address; s3://bucket/key"),
        ("s3://no bucket/key", "s3://no bucket/key: not an object's address; s3://bucket/key"),
        ("/dev/zero", "/dev/zero: a device; a file, or - for standard input"),
        ("loop", "loop: can't be read: Too many levels of symbolic links"),
    ],
)
def test_nothing_to_read_is_one_clear_line(
    name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ManifestError) as caught:
        open_source(name, Settings())
    assert line in str(caught.value)


@pytest.mark.parametrize("name", ["-", "pipe"])
def test_a_full_disk_for_temporary_files_is_no_fault_of_the_manifest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(CONTENT * 100)))
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(CONTENT * 100))
    if name == "pipe":
        writer.start()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="imagemill-manifest-") as full:
            open_source(name, Settings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.value.errno == errno.EFBIG
    if name == "pipe":
        writer.join()


def test_a_mistyped_name_is_told_of_the_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_bytes(CONTENT)
    with pytest.raises(ManifestError) as caught:
        open_source(str(tmp_path / "prompt.csv"), Settings())
    assert str(caught.value).endswith(f": no such file; did you mean {tmp_path / 'prompts.csv'}?")
    with pytest.raises(ManifestError, match=r"no such file$"):
        open_source(str(tmp_path / "other.jsonl"), Settings())


def test_an_object_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="did not answer"):
        open_source("s3://bucket/key", Settings(s3_endpoint_url="http://127.0.0.1:9"))

"""Which store a storage URL opens, and what an object's key looks like."""

from pathlib import Path

import pytest

from imagemill.db.errors import BadKey, SettingsError
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.storage.keys import checked_key, object_key
from imagemill.db.storage.s3 import S3Storage


def opened(url: str, **settings: object):
    return open_storage(Settings.load(storage_url=url, **settings))


def test_a_path_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for url in ("objects", "./objects", str(tmp_path / "objects"), f"file://{tmp_path}/objects"):
        storage = opened(url)
        assert isinstance(storage, FolderStorage)
        assert storage.uri == str(tmp_path / "objects")
    assert not (tmp_path / "objects").exists()


def test_a_file_url_is_unquoted_and_a_uri_is_quoted(tmp_path: Path):
    storage = opened(f"file://{tmp_path}/my%20pictures")
    assert storage.uri == str(tmp_path / "my pictures")
    assert storage.object_uri("ab/c.png") == f"file://{tmp_path}/my%20pictures/ab/c.png"


@pytest.mark.parametrize(
    ("url", "uri", "object_uri"),
    [
        ("s3://bucket", "s3://bucket", "s3://bucket/ab/c.png"),
        ("s3://bucket/", "s3://bucket", "s3://bucket/ab/c.png"),
        ("s3://bucket/one/two/", "s3://bucket/one/two", "s3://bucket/one/two/ab/c.png"),
    ],
)
def test_an_s3_url_is_a_bucket_and_a_prefix(url: str, uri: str, object_uri: str):
    storage = opened(url)
    assert isinstance(storage, S3Storage)
    assert storage.uri == uri
    assert storage.object_uri("ab/c.png") == object_uri


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://",
        "s3:///prefix",
        "s3://b",
        "s3://bucket//prefix",
        "s3://bucket/../other",
        "s3://bucket/a prefix",
        "gs://bucket",
        "https://host/bucket",
        "file://host/folder",
        "file://",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(url: str):
    with pytest.raises(SettingsError, match=r"IMAGEMILL_STORAGE_URL: .*s3://bucket/prefix"):
        opened(url)


def test_a_password_in_a_wrong_url_is_not_shown():
    with pytest.raises(SettingsError) as caught:
        opened("ftp://me:hunter2@host/pictures")
    assert "hunter2" not in caught.value.message


def test_an_objects_key():
    key = object_key("ab" * 32, "cd" * 32, "png")
    assert key == f"ab/{'ab' * 32}-{'cd' * 32}.png"
    assert checked_key(key) == key


@pytest.mark.parametrize(
    "parts",
    [
        ("ab" * 31, "cd" * 32, "png"),
        ("AB" * 32, "cd" * 32, "png"),
        ("ab" * 32, "../" + "c" * 61, "png"),
        ("ab" * 32, "cd" * 32, "p/ng"),
        ("ab" * 32, "cd" * 32, ""),
        ("ab" * 32, "cd" * 32 + "\n", "png"),
    ],
)
def test_a_key_of_anything_but_hashes_is_refused(parts: tuple[str, str, str]):
    with pytest.raises(BadKey):
        object_key(*parts)

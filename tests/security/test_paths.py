"""Names in a manifest, and keys: none leads to a file, a host or an object that it may not."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagemill.db.errors import BadKey, ModelError, StorageError
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.storage.keys import checked_key, object_key
from imagemill.scheduler_jobs.expansion.wildcards import Wildcards
from imagemill.scheduler_jobs.manifest.problems import BadValue
from imagemill.scheduler_jobs.submit.input_files import MAX_INPUT_BYTES, InputFiles
from tests.unit.conftest import CommandLine

SECRET = "a secret outside"

PATHS = (
    "../secret.png",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "sub/../../secret.png",
    "./../secret.png",
    "link.png",
    "folder-link/secret.png",
    "sub\\..\\..\\secret.png",
    "..%2fsecret.png",
    "a\0b",
    "x" * 5000,
    "",
    ".",
    "..",
    "~/.ssh/id_rsa",
    "fifo",
    "sub",
    "/dev/zero",
    "/proc/self/environ",
)
ADDRESSES = (
    "http://127.0.0.1:{port}/x.png",
    "https://127.0.0.1:{port}/x.png",
    "HTTP://127.0.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data/iam/",
    "http://[::1]:{port}/",
    "//127.0.0.1:{port}/x",
    "ftp://127.0.0.1:{port}/x",
    "gopher://127.0.0.1:{port}/x",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "data:image/png;base64,AAAA",
    "s3://another-bucket/key",
    "s3://169.254.169.254/latest",
    "s3://",
    "s3:/../etc/passwd",
    "hf://datasets/x/y.png",
    "smb://127.0.0.1/share",
)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every address that this process tried to reach."""
    tried: list[object] = []

    def refuse(own: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    def resolve(*arguments: object, **options: object) -> None:
        tried.append(arguments[0])
        raise OSError("no names in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield tried
    assert tried == []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    inputs = tmp_path / "inputs"
    (inputs / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_text(SECRET)
    (inputs / "link.png").symlink_to(tmp_path / "secret.png")
    (inputs / "folder-link").symlink_to(tmp_path)
    (tmp_path / "objects").mkdir()
    return Settings.load(
        inputs_folder=inputs, storage_url=str(tmp_path / "objects"), adapters_folder=inputs
    )


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", [*PATHS, *ADDRESSES], ids=lambda name: name[:40])
def test_an_input_is_a_file_in_its_folder_or_nothing(
    settings: Settings, no_network: list[object], name: str, keep: bool
) -> None:
    if name == "fifo":
        import os

        os.mkfifo(Path(str(settings.inputs_folder)) / "fifo")
    with pytest.raises(BadValue) as caught:
        InputFiles(settings, keep=keep).digest(name.format(port=9))
    assert SECRET not in str(caught.value)
    assert list(Path(settings.storage_url).iterdir()) == []


def test_a_key_of_the_store_does_not_leave_its_prefix(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    root.mkdir()
    (tmp_path / "secret.png").write_text(SECRET)
    files = InputFiles(Settings.load(storage_url=str(root)), keep=False)
    for name in ("../secret.png", f"s3://{root}/../secret.png", f"{root}/../secret.png"):
        with pytest.raises(BadValue):
            files.digest(name)


def test_an_address_that_no_object_has_is_a_bad_row() -> None:
    files = InputFiles(Settings.load(storage_url="s3://bucket/prefix"), keep=False)
    for name in ("../x.png", "", "a b.png", "x//y.png"):
        with pytest.raises(BadValue, match="a name that no object of the store has"):
            files.digest(f"s3://bucket/prefix/{name}")


def test_an_input_that_is_too_large_is_not_read(settings: Settings) -> None:
    assert settings.inputs_folder is not None
    with (settings.inputs_folder / "large.png").open("wb") as file:
        file.truncate(MAX_INPUT_BYTES + 1)
    with pytest.raises(BadValue, match="at most"):
        InputFiles(settings, keep=False).digest("large.png")


@pytest.mark.parametrize(
    "name", ["../secret", "sub/../../secret", "/etc/passwd", "link", "a/../../x"]
)
def test_a_wildcard_is_a_file_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "wildcards"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text(SECRET)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(BadValue) as caught:
        Wildcards(folder).lines(name)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", [*PATHS, *ADDRESSES], ids=lambda name: name[:40])
def test_models_and_adapters_are_registered_names(
    settings: Settings, no_network: list[object], name: str
) -> None:
    registry = load_registry(settings)
    with pytest.raises(ModelError):
        registry.find(name)
    with pytest.raises(ModelError):
        registry.find_adapter(name)


@pytest.mark.parametrize(
    "key",
    [
        "../x", "a/../b", "/etc/passwd", "a//b", "a/", "", ".", ".hidden", "a/.b", "a b", "a\nb",
        "a\0b", "a?versionId=1", "a#b", "a%2e%2e/b", "a\\b", "é", "x" * 600, "s3://b/k", "a;b",
        "'; DROP TABLE objects; --", "$(id)", "-rf",
    ],
)  # fmt: skip
def test_no_other_key_reaches_a_store(tmp_path: Path, key: str) -> None:
    (tmp_path / "objects").mkdir()
    store = FolderStorage(tmp_path / "objects")
    with pytest.raises(BadKey):
        checked_key(key)
    for call in (
        lambda: store.put(key, b"x", media_type="image/png"),
        lambda: store.get(key),
        lambda: store.stat(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(BadKey):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["objects"]


def test_a_key_is_made_of_hashes_alone() -> None:
    good = "a" * 64
    for parts in (
        ("../" + "a" * 61, good, "png"),
        (good, good, "png/../x"),
        (good, "A" * 64, "png"),
    ):
        with pytest.raises(BadKey):
            object_key(*parts)


def test_a_link_in_the_store_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text(SECRET)
    store = FolderStorage(tmp_path / "objects")
    (tmp_path / "objects" / "ab").symlink_to(tmp_path / "outside")
    for call in (
        lambda: store.get("ab/x"),
        lambda: store.put("ab/y", b"x", media_type="image/png"),
    ):
        with pytest.raises(StorageError):
            call()
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["x"]


def test_the_manifest_s_own_words_name_no_file(
    imagemill: CommandLine, tmp_path: Path, no_network: list[object]
) -> None:
    """The whole way: `plan` of a manifest whose every field is a path or an address."""
    lines = ["prompt,init_image,mask,model,adapters,format"]
    for name in ("/etc/passwd", "../x", "http://127.0.0.1:9/", "file:///etc/passwd"):
        lines += [
            f"p,{name},,,,",
            f"p,,{name},,,",
            f"p,,,{name},,",
            f"p,,,,{name},",
            f"p,,,,,{name}",
        ]
    manifest = tmp_path / "attack.csv"
    manifest.write_text("\n".join(lines))
    answer = imagemill("plan", manifest, "--json")
    assert answer.code == 2
    assert "root:" not in answer.out + answer.err
    assert {p["row_number"] for p in answer.json["problems"]} == set(range(1, 21))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.csv", "ftp://x/y.csv", "/dev/null/x"])
def test_a_manifest_is_never_fetched_from_a_url(
    imagemill: CommandLine, address: str, no_network: list[object]
) -> None:
    answer = imagemill("plan", address)
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1


def test_a_home_is_made_of_files_of_its_own(imagemill: CommandLine, tmp_path: Path) -> None:
    """`--home` is the operator's word, but a home without a database is never made up."""
    for place in (tmp_path / "nothing", tmp_path / ".." / "nothing", "/proc/self"):
        answer = CommandLine(Path(place))("status")
        assert answer.code in {2, 3}
        assert "Traceback" not in answer.err

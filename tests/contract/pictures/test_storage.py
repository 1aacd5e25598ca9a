"""What every store promises, tried on a folder and on a real S3 server."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from imagemill.db.errors import BadKey, ObjectConflict, ObjectMissing
from imagemill.db.storage import Storage
from imagemill.db.storage.keys import object_key

PNG = "image/png"
WRITERS = 16


def key_of(body: bytes) -> str:
    return object_key(
        hashlib.sha256(b"request").hexdigest(), hashlib.sha256(body).hexdigest(), "png"
    )


def test_what_was_put_is_got(storage: Storage):
    body = bytes(range(256)) * 300
    assert storage.put(key_of(body), body, media_type=PNG)
    assert storage.get(key_of(body)) == body


def test_an_empty_object_is_an_object(storage: Storage):
    assert storage.put("ab/empty", b"", media_type=PNG)
    assert storage.get("ab/empty") == b""
    assert storage.stat("ab/empty").size == 0


def test_a_repeated_put_finds_the_object(storage: Storage):
    assert storage.put("ab/c.png", b"pixels", media_type=PNG)
    assert not storage.put("ab/c.png", b"pixels", media_type=PNG)


@pytest.mark.parametrize(
    "other", [b"PIXELS", b"more pixels", b""], ids=["same length", "longer", "empty"]
)
def test_another_content_is_a_conflict(storage: Storage, other: bytes):
    storage.put("ab/c.png", b"pixels", media_type=PNG)
    with pytest.raises(ObjectConflict, match=r"ab/c\.png"):
        storage.put("ab/c.png", other, media_type=PNG)
    assert storage.get("ab/c.png") == b"pixels"


def test_of_many_writers_exactly_one_creates(storage: Storage):
    start = Barrier(WRITERS)

    def write(number: int) -> list[bool]:
        start.wait()
        return [storage.put(f"ab/{n}.png", b"pixels %d" % n, media_type=PNG) for n in range(5)]

    with ThreadPoolExecutor(WRITERS) as writers:
        created = list(writers.map(write, range(WRITERS)))
    assert [sum(of_one_key) for of_one_key in zip(*created, strict=True)] == [1] * 5
    assert [storage.get(f"ab/{n}.png") for n in range(5)] == [b"pixels %d" % n for n in range(5)]
    assert len(list(storage.list())) == 5


def test_of_many_writers_with_different_contents_one_wins_and_the_rest_conflict(storage: Storage):
    start = Barrier(WRITERS)

    def write(number: int) -> bool | None:
        start.wait()
        try:
            return storage.put("ab/c.png", b"pixels %02d" % number, media_type=PNG)
        except ObjectConflict:
            return None

    with ThreadPoolExecutor(WRITERS) as writers:
        outcomes = list(writers.map(write, range(WRITERS)))
    assert outcomes.count(True) == 1
    assert outcomes.count(None) == WRITERS - 1
    assert storage.get("ab/c.png") == b"pixels %02d" % outcomes.index(True)


def test_stat_tells_size_and_time(storage: Storage):
    storage.put("ab/c.png", b"pixels", media_type=PNG)
    found = storage.stat("ab/c.png")
    assert (found.key, found.size) == ("ab/c.png", 6)
    assert found.modified.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=5)


def test_a_missing_object(storage: Storage):
    assert storage.stat("ab/none.png") is None
    storage.delete("ab/none.png")
    with pytest.raises(ObjectMissing, match=r"ab/none\.png"):
        storage.get("ab/none.png")


def test_a_deleted_object_is_gone_and_may_come_back(storage: Storage):
    storage.put("ab/c.png", b"pixels", media_type=PNG)
    storage.delete("ab/c.png")
    assert storage.stat("ab/c.png") is None
    assert list(storage.list()) == []
    assert storage.put("ab/c.png", b"other pixels", media_type=PNG)


def test_list_finds_every_object_below_a_prefix(storage: Storage):
    keys = {"ab/1.png", "ab/2.png", "abc/3.png", "b/c/d/4.png", "5.png"}
    for key in keys:
        storage.put(key, key.encode(), media_type=PNG)
    listed = {item.key: item.size for item in storage.list()}
    assert listed == {key: len(key) for key in keys}
    assert {item.key for item in storage.list("ab/")} == {"ab/1.png", "ab/2.png"}
    assert {item.key for item in storage.list("ab")} == {"ab/1.png", "ab/2.png", "abc/3.png"}
    assert list(storage.list("zz/")) == []


BAD_KEYS = [
    "",
    "/ab/c.png",
    "ab/c.png/",
    "ab//c.png",
    "../c.png",
    "ab/../../c.png",
    "ab/./c.png",
    ".incoming/c.png",
    "ab/.hidden",
    "ab\\c.png",
    "ab/c d.png",
    "ab/c\n.png",
    "ab/c.png\n",
    "ab/c\0.png",
    "ab/ü.png",
    "ab/%2e%2e/c.png",
    "ab/" + "c" * 201,
    "/".join(["abcdefgh"] * 60),
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:30])
def test_a_weird_key_is_refused_by_every_method(storage: Storage, key: str):
    with pytest.raises(BadKey):
        storage.put(key, b"pixels", media_type=PNG)
    for method in (storage.get, storage.stat, storage.delete, storage.object_uri):
        with pytest.raises(BadKey):
            method(key)


def test_the_probe_leaves_nothing_and_says_what_the_store_can_do(storage: Storage):
    line = storage.probe()
    assert storage.uri in line
    assert "once" in line
    assert "\n" not in line
    assert list(storage.list()) == []
    assert list(storage.leftovers()) == []


def test_the_fallback_for_plain_stores_keeps_the_contract_for_one_writer(storage: Storage):
    for without in ("_links", "_conditional"):
        if hasattr(storage, without):
            setattr(storage, without, False)
    assert storage.put("ab/c.png", b"pixels", media_type=PNG)
    assert not storage.put("ab/c.png", b"pixels", media_type=PNG)
    with pytest.raises(ObjectConflict):
        storage.put("ab/c.png", b"PIXELS", media_type=PNG)
    assert storage.get("ab/c.png") == b"pixels"

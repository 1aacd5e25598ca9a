"""When I7 and I3 count as broken: by what moves and whose a file is, never by how long it took."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from imagemill.db.database import Database
from imagemill.db.storage import Storage
from imagemill.db.storage.keys import object_key
from tests.chaos.checker import Bucket, Checker
from tests.chaos.settling import Query, Settling, Snapshot, snapshot, standing_still
from tests.chaos.troupe import Actor
from tests.helpers.mill import Mill, sha
from tests.helpers.servers.seaweedfs import Seaweed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def looks(every: float, *found: Snapshot) -> list[str | None]:
    """What `Settling` says at each look, with so many seconds between two."""
    clock = Clock()
    settling = Settling(still_seconds=10, endless_seconds=30, clock=clock)
    said = []
    for each in found:
        clock.now += every
        said.append(settling.look(each))
    return said


def at(ended: int, *moved: object) -> Snapshot:
    return Snapshot(ended=ended, moved=moved)


def test_work_that_gets_on_may_take_any_time() -> None:
    assert not any(looks(9.0, *(at(number) for number in range(100))))


def test_it_is_broken_when_nothing_moves() -> None:
    *before, last = looks(4.0, at(1, "a"), at(1, "b"), at(1, "b"), at(1, "b"), at(1, "b"))
    assert not any(before)
    assert last is not None
    assert last.startswith("nothing moved for 12 s, load ")
    assert last.endswith("longest time between two looks 4.0 s")


def test_it_is_broken_when_things_move_and_nothing_ends() -> None:
    *before, last = looks(5.0, *(at(1, number) for number in range(7)))
    assert not any(before)
    assert last is not None
    assert last.startswith("leases came and went, but nothing ended for 30 s")


@pytest.fixture
def mill(migrated_url: str) -> Iterator[Mill]:
    database = Database(migrated_url)
    yield Mill(database)
    database.close()


@pytest.fixture
def query(migrated_url: str) -> Iterator[Query]:
    with psycopg.connect(migrated_url.replace("+psycopg", ""), autocommit=True) as connection:

        def ask(statement: Any, *values: object) -> list[tuple[Any, ...]]:
            return connection.execute(statement, values).fetchall()

        yield ask


def test_a_renewed_lease_moves_and_only_an_end_ends(mill: Mill, query: Query) -> None:
    mill.load("job", ["a", "b"])
    shift = mill.shift()
    held = mill.claim(shift, limit=1)
    look = partial(snapshot, query)
    first = look()
    assert look() == first, "nobody did anything"
    mill.renew(shift, lease_seconds=90)
    renewed = look()
    assert renewed.ended == first.ended
    assert renewed.moved != first.moved
    mill.complete(shift, held)
    assert look().ended == first.ended + 1


def test_it_says_what_stands_still_and_whose_it_is(mill: Mill, query: Query) -> None:
    mill.load("first", ["a", "b"])
    mill.load("second", ["c"], opened=False)
    shift = mill.shift()
    [held] = mill.claim(shift, limit=1)
    worker = Actor(pid=1, role="worker", order={})
    producer = Actor(pid=2**22 + 1, role="producer", order={"name": "third"})
    lines = standing_still(query, [worker, producer])
    [leased] = [line for line in lines if line.startswith(f"image {held.id} ")]
    assert f"of first is leased, 0 losses, held by shift {shift} of process 1 (alive)" in leased
    assert "job first is open with 2 rows" in lines
    assert "job second is loading with 1 rows" in lines
    assert f"third is still being submitted by process {producer.pid}" in lines
    assert f"producer {producer.pid}: gone" in lines
    [heartbeat] = [line for line in lines if line.startswith("worker 1: ")]
    assert "last heartbeat " in heartbeat
    [leased] = [line for line in standing_still(query, []) if "leased" in line]
    assert "of process 1 (dead)" in leased


def test_a_file_without_a_row_is_explained_only_by_who_may_still_record_it(
    mill: Mill,
    migrated_url: str,
    s3_server: Seaweed,
    s3_storage: Storage,
    s3_storage_url: str,
    tmp_path: Path,
) -> None:
    mill.load("job", ["a", "b"])
    [leased] = mill.claim(mill.shift(), limit=1)
    keys = [object_key(key, sha("content"), "png") for key in (leased.request_key, sha("nobody's"))]
    for key in keys:
        s3_storage.put(key, b"content", media_type="image/png")
    history = tmp_path / "history.jsonl"
    history.touch()
    checker = Checker(migrated_url.replace("+psycopg", ""), history, {"pixels": {}})
    access = (s3_server.access_key, s3_server.secret_key)
    name, _, prefix = s3_storage_url.removeprefix("s3://").partition("/")
    checker.check(Bucket(endpoint=s3_server.endpoint, name=name, prefix=prefix, keys=access))
    strays = [line for line in checker.violations if line.startswith("I3")]
    assert strays == [f"I3: {keys[1]} is in the bucket after a sweep, without a row"]
    assert checker.counted["files of images that are still leased"] == 1

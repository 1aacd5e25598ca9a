"""Reading what is new: a cursor that no order of commits can slip behind."""

from pathlib import Path

import pytest
from sqlalchemy import text

import imagemill
from imagemill.db.database import Database
from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.finished_images import Cursor
from imagemill.db.storage.folder import FolderStorage
from imagemill.reader import Mill as Reader
from tests.helpers.mill import DIGEST, Mill, spec


def reader_of(mill: Mill, folder: Path) -> Reader:
    return Reader(mill.database, FolderStorage(folder))


def read(reader: Reader, since: str | None, **how: str) -> tuple[list[str], str]:
    new = reader.new_images(since, **how)
    return [image["prompt"] for image in new], new.cursor


def finish(mill: Mill, limit: int) -> None:
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=limit))
    mill.end(shift)


def test_each_image_comes_once(mill: Mill, tmp_path: Path) -> None:
    reader = reader_of(mill, tmp_path)
    assert read(reader, None)[0] == []
    nothing = read(reader, None)[1]
    mill.load("job", ["a", "b", "c"])
    other = mill.load("other", ["d"])
    finish(mill, 2)
    first, cursor = read(reader, None)
    assert read(reader, nothing)[0] == first
    assert len(first) == 2
    assert read(reader, cursor) == ([], cursor) or read(reader, cursor)[0] == []
    finish(mill, 9)
    finish(mill, 9)
    second, last = read(reader, cursor)
    assert sorted(first + second) == ["a", "b", "c", "d"]
    assert read(reader, last)[0] == []
    assert read(reader, cursor, job="other")[0] == (["d"] if "d" in second else [])
    assert read(reader, None, where=f"job_id = {other}")[0] == ["d"]
    assert sorted(read(reader, None)[0]) == ["a", "b", "c", "d"]


def test_an_image_that_was_rendered_again_comes_again(mill: Mill, tmp_path: Path) -> None:
    reader = reader_of(mill, tmp_path)
    mill.load("job", ["a", "b"])
    finish(mill, 2)
    _, cursor = read(reader, None)
    with mill.database.writing() as session:  # as `verify --requeue` does it
        session.execute(
            text(
                "UPDATE images SET state = 'ready', object_id = NULL, outcome = NULL, "
                "generation = 2 WHERE prompt = 'a'"
            )
        )
    assert read(reader, cursor)[0] == []
    with mill.database.writing() as session:
        session.execute(
            text(
                "UPDATE images SET state = 'done', outcome = 'ok', object_id = "
                "(SELECT id FROM objects WHERE objects.request_key = images.request_key) "
                "WHERE prompt = 'a'"
            )
        )
        session.execute(
            text(
                "INSERT INTO attempts (image_id, generation, event, solo) "
                "SELECT id, 2, 'requeued', false FROM images WHERE prompt = 'a'"
            )
        )
        session.execute(
            text(
                "INSERT INTO attempts (image_id, generation, event, solo) "
                "SELECT id, 2, 'done', false FROM images WHERE prompt = 'a'"
            )
        )
    again, _ = read(reader, cursor)
    assert again == ["a"]
    assert sorted(read(reader, None)[0]) == ["a", "b"], "once, although it was done twice"
    with mill.database.writing() as session:  # the mill's own books know nothing of this
        session.execute(text("DELETE FROM attempts WHERE generation = 2"))
        session.execute(text("UPDATE images SET generation = 1"))


def test_a_lower_id_that_is_committed_later_is_not_lost(
    postgres_database: Database, tmp_path: Path
) -> None:
    mill = Mill(postgres_database)
    reader = reader_of(mill, tmp_path)
    mill.load("job", ["early", "late", "last"])
    early, late, last = (mill.shift() for _ in range(3))
    claimed = [mill.claim(shift, limit=1) for shift in (early, late, last)]
    _, before = read(reader, None)
    # The transaction of the first image gets its numbers first, and commits last.
    with mill.database.engine.connect() as slow:
        slow.execute(
            text(
                "INSERT INTO attempts (image_id, generation, event, solo) "
                "SELECT id, generation, 'lost', false FROM images WHERE id = :id"
            ),
            {"id": claimed[0][0].id},
        )
        low = slow.scalar(text("SELECT max(id) FROM attempts"))
        mill.complete(late, claimed[1])
        with mill.database.reading() as session:
            high = session.scalar(text("SELECT max(id) FROM attempts"))
        assert high > low, "ids do not become visible in their order"
        found, cursor = read(reader, before)
        assert found == [], "it waits for the older transaction"
        slow.execute(
            text("UPDATE attempts SET event = 'done' WHERE id = :id"),
            {"id": low},
        )
        slow.execute(
            text(
                "INSERT INTO objects (request_key, object_key, uri, sha256, pixels_sha256, "
                "size_bytes, width, height, format, outcome, environment_id, seconds) "
                "SELECT request_key, 'early.png', '', '', '', 1, 64, 64, 'png', 'ok', :env, 1 "
                "FROM images WHERE id = :id"
            ),
            {"id": claimed[0][0].id, "env": mill.environment_id},
        )
        slow.execute(
            text(
                "UPDATE images SET state = 'done', outcome = 'ok', shift_id = NULL, object_id = "
                "(SELECT id FROM objects WHERE object_key = 'early.png') WHERE id = :id"
            ),
            {"id": claimed[0][0].id},
        )
        slow.commit()
    mill.complete(last, claimed[2])
    found, after = read(reader, cursor)
    assert sorted(found) == ["early", "last", "late"]
    assert read(reader, after)[0] == []


def test_a_reader_holds_nothing_back_and_sees_one_moment(
    postgres_database: Database, tmp_path: Path
) -> None:
    """Images that become done while it reads come the next time, not never."""
    mill = Mill(postgres_database)
    reader = reader_of(mill, tmp_path)
    mill.load("job", [spec(f"p{n}", digest=DIGEST) for n in range(4)])
    finish(mill, 2)
    new = reader.new_images()
    images = iter(new)
    got = [next(images)["prompt"]]
    finish(mill, 2)
    got += [image["prompt"] for image in images]
    assert len(got) == 2
    assert sorted(got + read(reader, new.cursor)[0]) == ["p0", "p1", "p2", "p3"]


def test_lines_of_an_older_version_and_of_another_server_come_too(
    postgres_database: Database, tmp_path: Path
) -> None:
    mill = Mill(postgres_database)
    reader = reader_of(mill, tmp_path)
    mill.load("job", ["a", "b", "c"])
    finish(mill, 3)
    for number, value in enumerate(("NULL", "CAST('18446744073709551000' AS xid8)")):
        with mill.database.writing() as session:
            session.execute(
                text(
                    f"UPDATE attempts SET transaction_id = {value} WHERE id = "
                    "(SELECT id FROM attempts WHERE event = 'done' "
                    f"ORDER BY id OFFSET {number} LIMIT 1)"
                )
            )
    assert sorted(read(reader, None)[0]) == ["a", "b", "c"]


def test_a_cursor_says_where_it_is_from(mill: Mill, tmp_path: Path) -> None:
    reader = reader_of(mill, tmp_path)
    mill.load("job", ["a"])
    finish(mill, 1)
    new = reader.new_images()
    with pytest.raises(UsageError, match="once all images were read"):
        _ = new.cursor
    list(new)
    assert str(Cursor.read(new.cursor)) == new.cursor
    for wrong in ("", "7", "pg:1", 7):
        with pytest.raises(UsageError, match="is no cursor"):
            reader.new_images(wrong)  # type: ignore[arg-type]  # that is what is tried
    elsewhere = "sqlite:5:9:2026-01-01 00:00:00.000000"
    for other in (elsewhere, "pg:1:2:3"):
        with pytest.raises(UsageError, match="of another database"):
            list(reader.new_images(other))
    with pytest.raises(imagemill.db.errors.UnknownJob):
        reader.new_images(job="nobody")


def test_on_sqlite_a_cursor_whose_line_was_removed_is_refused(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """The ids of removed lines are given out again, so they say nothing any more."""
    mill = Mill(sqlite_database)
    reader = reader_of(mill, tmp_path)
    mill.load("job", ["a", "b"])
    finish(mill, 1)
    _, cursor = read(reader, None)
    with mill.database.writing() as session:
        kept = session.execute(text("SELECT * FROM attempts")).mappings().all()
        session.execute(text("DELETE FROM attempts"))
    with pytest.raises(UsageError, match="begin again without one"):
        read(reader, cursor)
    with mill.database.writing() as session:
        columns = ", ".join(kept[0])
        values = ", ".join(f":{name}" for name in kept[0])
        session.execute(
            text(f"INSERT INTO attempts ({columns}) VALUES ({values})"), list(map(dict, kept))
        )
    assert read(reader, cursor)[0] == []

"""A query of one's own: both databases answer alike, and refuse everything but reading."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from imagemill.db.database import Database
from imagemill.db.errors import UsageError
from imagemill.db.read_only import PAGE, answering
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.reading.formats import WRITERS
from tests.helpers.dataset import finished_job
from tests.helpers.mill import REFUSED, Mill, spec

CHANGES = [
    "DELETE FROM jobs",
    "UPDATE jobs SET state = 'open'",
    "INSERT INTO store (id, address) VALUES (1, 'x')",
    "DROP VIEW dataset_images",
    "CREATE TABLE mine (x int)",
    "WITH gone AS (DELETE FROM jobs RETURNING id) SELECT * FROM gone",
    "WITH x AS (SELECT 1) DELETE FROM jobs",
    "SELECT 1; DELETE FROM jobs",
    "SELECT 1; COMMIT; DELETE FROM jobs",
    "/* SELECT */ DELETE FROM jobs",
    "-- SELECT\nDELETE FROM jobs",
    "COMMIT",
    "BEGIN",
    "SELECT * INTO mine FROM jobs",
    "ATTACH 'mine.sqlite3' AS mine",
    "VACUUM INTO 'mine.sqlite3'",
    "PRAGMA query_only = OFF",
    "SELECT * FROM pragma_journal_mode('delete')",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT nextval('jobs_id_seq')",
    "SELECT lo_create(0)",
    "SET TRANSACTION READ WRITE",
    "COPY jobs TO PROGRAM 'cat'",
    "",
    "(((",
]


def refusal(database: Database, query: str) -> str:
    """What is said of a query that is refused; nothing if it is answered."""
    try:
        with answering(database, query) as answer:
            list(answer.rows)
    except UsageError as refused:
        return refused.message
    return ""


def test_whatever_is_no_reading_is_refused_in_one_line(
    mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mill.load("job", ["a"])
    for query in CHANGES:
        said = refusal(mill.database, query)
        assert said, query
        assert "\n" not in said, query
        with mill.database.reading() as session:
            assert session.scalar(text("SELECT count(*) FROM jobs")) == 1, query
        assert not (tmp_path / "mine.sqlite3").exists(), query


def test_what_is_wrong_with_a_query_is_told(database: Database) -> None:
    for query, said in (
        ("SELECT promt FROM dataset_images", "promt"),
        ("SELECT * FROM nothing_there", "nothing_there"),
        ("SELECT (1", "input"),
        ("SELECT '\0'", "character"),
        ("EXPLAIN SELECT 1", "begins with EXPLAIN"),
    ):
        with pytest.raises(UsageError, match=said), answering(database, query) as answer:
            list(answer.rows)


def test_a_query_that_takes_too_long_is_stopped(database: Database) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    stopped = pytest.raises(UsageError, match=r"stopped after 0\.2 s; --timeout")
    with stopped, answering(database, endless, seconds=0.2) as answer:
        list(answer.rows)


def test_an_answer_is_a_stream_of_pages(database: Database) -> None:
    many = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PAGE + 7}) "
    with answering(database, many + "SELECT i, 'a%b' AS t FROM n ORDER BY i;") as answer:
        assert list(answer.columns) == ["i", "t"]
        pages = list(answer.pages)
    assert [len(page) for page in pages] == [PAGE, 7]
    assert pages[1][-1] == (PAGE + 7, "a%b")


def test_both_databases_give_the_same_values(mill: Mill, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "id": "1", "seed": 2**64 - 1, "mood": {"x": [1]}}]
    storage = FolderStorage(tmp_path / "objects")
    finished_job(mill, storage, tmp_path, rows, samples=1)
    query = "SELECT seed, extras, created_at, seconds, outcome, error_code FROM dataset_images"
    with answering(mill.database, query) as answer:
        [[seed, extras, created_at, seconds, outcome, error]] = answer.rows
    assert int(seed) == 2**64 - 1
    assert extras == {"mood": {"x": [1]}}
    assert isinstance(created_at, datetime)
    assert created_at.tzinfo == UTC or created_at.utcoffset() == UTC.utcoffset(None)
    assert isinstance(seconds, float)
    assert (outcome, error) == ("ok", None)
    written = tmp_path / "x.parquet"
    with written.open("wb") as stream, answering(mill.database, query) as answer:
        assert WRITERS["parquet"](stream, answer.columns, answer.pages) == 1
    table = pq.read_table(written)
    assert [str(kind) for kind in table.schema.types] == [
        *("uint64", "string", "timestamp[us, tz=UTC]", "double", "string", "string"),
    ]
    assert table["seed"].to_pylist() == [2**64 - 1]
    assert json.loads(table["extras"][0].as_py()) == {"mood": {"x": [1]}}


def test_jobs_with_their_counts(mill: Mill) -> None:
    job = mill.load("job", [spec("a", seed=2**64 - 1), "b", "c"])
    shift = mill.shift()
    first, second, _ = mill.claim(shift, limit=3)
    mill.complete(shift, [first])
    mill.begin(shift, [second.id])
    mill.fail(shift, second.id, REFUSED)
    empty = mill.create("loading")
    query = "SELECT job_id, requested, ready, leased, done, dead, cancelled FROM dataset_jobs "
    with answering(mill.database, query + "ORDER BY job_id") as answer:
        assert list(answer.rows) == [(job, 3, 0, 1, 1, 1, 0), (empty, 0, 0, 0, 0, 0, 0)]


def test_failures_are_dead_images_and_refused_rows(mill: Mill, tmp_path: Path) -> None:
    job = mill.load("job", ["a", "b"])
    shift = mill.shift()
    first, _ = mill.claim(shift, limit=2)
    mill.begin(shift, [first.id])
    mill.fail(shift, first.id, REFUSED)
    refused = text(
        "INSERT INTO rows (job_id, number, line, key_occurrence, verbatim, extras, problem) "
        "VALUES (:job, 9, 10, 0, 'a,x', '{}', 'm.csv:9: steps: x; a number')"
    )
    mill.database.run(lambda session: session.execute(refused, {"job": job}))
    query = "SELECT kind, row_number, image_id, error_code, error_message, failed_at, verbatim "
    with answering(mill.database, query + "FROM dataset_failures ORDER BY kind") as answer:
        [image, row] = answer.rows
    assert image[:5] == ("image", 1, first.id, "input_image", "it is no picture")
    assert isinstance(image[5], datetime)
    assert row == ("row", 9, None, "manifest", "m.csv:9: steps: x; a number", None, "a,x")
    mill.database.run(
        lambda session: session.execute(text("DELETE FROM rows WHERE problem IS NOT NULL"))
    )


def test_the_types_of_columns_come_from_the_first_rows() -> None:
    from imagemill.scheduler_jobs.reading.arrow import batch_reader

    pages = [[(1, None, None, True)], [(2, "x", None, None)]]
    table = batch_reader(["a", "b", "size_bytes", "d"], pages).read_all()
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "string", "bool"]
    assert table.num_rows == 2
    with pytest.raises((UsageError, pa.ArrowException), match="column a, row 2: 'many' does not"):
        batch_reader(["a"], [[(1,)], [("many",)]]).read_all()
    with pytest.raises(UsageError, match="two columns are called a"):
        batch_reader(["a", "a"], [])

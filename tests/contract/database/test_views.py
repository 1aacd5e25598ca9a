"""The views for readers: their columns are described, and the page's examples work."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from imagemill.db.database import Database
from imagemill.db.present_store import record_store
from imagemill.db.read_only import answering
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.views.columns import VIEWS
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill
from tests.helpers.places import ROOT

PAGE = (ROOT / "docs" / "database.md").read_text("utf-8")
URL = re.compile(r'"postgresql\+psycopg://[^"]*"')
ROWS = (
    {"prompt": "a red circle", "category": "shapes"},
    {"prompt": "a blue star", "category": "stars", "seed": 2**64 - 1},
)


def blocks(language: str) -> list[tuple[str, str]]:
    """The page's examples in a language: what stands behind its name, and the code."""
    found = re.findall(rf"^```{language} ?(\w*)\n(.*?)^```", PAGE, re.M | re.S)
    assert found
    return list(found)


@pytest.fixture
def finished(mill: Mill, tmp_path: Path) -> Database:
    """A database with a finished job, and the store's address."""
    storage = FolderStorage(tmp_path / "objects")
    finished_job(mill, storage, tmp_path, ROWS, name="PartiPrompts", samples=1)
    record_store(mill.database, storage)
    with mill.database.writing() as session:
        session.execute(
            text(
                "INSERT INTO scores (image_id, name, scorer, version, generation, value)"
                " SELECT id, 'sharpness', 'sharpness', '1', generation, 120 FROM images"
            )
        )
    return mill.database


def test_every_column_is_described_in_its_order(database: Database) -> None:
    with database.engine.connect() as connection:
        there = inspect(connection)
        views = {name for name in there.get_view_names() if name.startswith("dataset_")}
        assert views == set(VIEWS)
        for view, described in VIEWS.items():
            columns = [column["name"] for column in there.get_columns(view)]
            assert sorted(columns) == sorted(described.columns), view


def test_postgres_keeps_the_descriptions(postgres_database: Database) -> None:
    with postgres_database.engine.connect() as connection:
        there = inspect(connection)
        for view, described in VIEWS.items():
            found = {c["name"]: c["comment"] for c in there.get_columns(view)}
            assert found == dict(described.columns), f"{view}: call `describe_views`"
            question = text("SELECT obj_description(CAST(:view AS regclass))")
            assert connection.scalar(question, {"view": view}) == described.line


def test_labels_and_notes_are_on_the_job(mill: Mill) -> None:
    job = mill.load("job", ["a"])
    other = mill.load("other", ["b"])

    def write(session: Any) -> None:
        session.execute(
            text(
                "INSERT INTO job_labels (job_id, key, value) VALUES (:j, 'use', 'x'), (:j, 'a', '')"
            ),
            {"j": job},
        )
        session.execute(text("INSERT INTO job_notes (job_id, text) VALUES (:j, 'n')"), {"j": job})

    mill.database.run(write)
    query = "SELECT job_id, labels, note FROM dataset_jobs ORDER BY job_id"
    with answering(mill.database, query) as answer:
        found = list(answer.rows)
    assert found == [(job, {"a": "", "use": "x"}, "n"), (other, {}, None)]


def test_a_job_says_whose_it_is(mill: Mill) -> None:
    mill.load("hers", ["a"], owner="anna")
    mill.load("old", ["b"])
    with answering(mill.database, "SELECT job_name, owner FROM dataset_jobs") as answer:
        assert set(answer.rows) == {("hers", "anna"), ("old", "")}


@pytest.mark.parametrize(("dialect", "query"), blocks("sql"))
def test_a_query_of_the_page_is_answered(finished: Database, dialect: str, query: str) -> None:
    if dialect in {"", "sqlite" if finished.is_sqlite else "postgres"}:
        with answering(finished, query) as answer:
            rows = list(answer.rows)
        assert rows or "failures" in query


@pytest.mark.parametrize(("_", "code"), blocks("python"))
def test_code_of_the_page_runs(
    finished: Database, _: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = finished.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("IMAGEMILL_STORAGE_URL", str(tmp_path / "objects"))
    exec(URL.sub(repr(url), code), {})

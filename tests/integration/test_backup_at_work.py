"""A backup while real workers render: what comes back is one moment, and is rendered to its end."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from imagemill.db.database import Database
from imagemill.db.queries.tallies import Counts
from tests.e2e.commands import imagemill, last_json
from tests.helpers.mill import spec
from tests.integration.workers import eventually, held, planted

IMAGES = 24


@pytest.fixture(params=["sqlite and a folder", "postgres and s3"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[tuple[str, str]], dict]:
    """Database and store, twice: to back up, and fresh; and what reaches the store."""
    if request.param == "sqlite and a folder":
        (tmp_path / "first").mkdir()
        (tmp_path / "first" / "objects").mkdir()
        homes = [tmp_path / name for name in ("first", "second")]
        return [(f"sqlite:///{home}/mill.sqlite3", str(home / "objects")) for home in homes], {}
    server = request.getfixturevalue("postgres_server")
    store = request.getfixturevalue("s3_storage_url")
    urls = [server.create_database(), server.create_database()]
    both = list(zip(urls, [f"{store}/first", f"{store}/second"], strict=True))
    return both, request.getfixturevalue("s3_environment")


def test_workers_go_on_and_the_copy_is_rendered_to_its_end(
    places: tuple[list[tuple[str, str]], dict], broker_url: str, tmp_path: Path
) -> None:
    [(url, store), (fresh_url, fresh_store)], reach = places
    more = {"broker_url": broker_url, "retry_seconds": "0"}
    gate = tmp_path / "gate"
    slow = [replace(spec(f"slow {n}"), steps=4) for n in range(IMAGES // 2)]
    with planted(url, tmp_path, storage_url=store, **more) as plant:
        plant.environment |= reach
        job = plant.mill.load("job", [*slow, *held(gate, IMAGES // 2)])
        plant.dispatcher()
        plant.worker()
        assert eventually(lambda: plant.mill.counts(job).done > 0), plant.logs
        here = plant.environment
        made = last_json(
            imagemill("backup", tmp_path / "copy", "--objects", "--json", environment=here)
        )
        assert made["missing"] == []
        assert 0 < made["record"]["objects"] < IMAGES
        gate.touch()
        assert plant.finishes(job), plant.logs
        assert plant.mill.counts(job) == Counts(done=IMAGES)
    there = here | {"IMAGEMILL_DATABASE_URL": fresh_url, "IMAGEMILL_STORAGE_URL": fresh_store}
    imagemill("restore", tmp_path / "copy", environment=there)
    (tmp_path / "again").mkdir()
    with planted(fresh_url, tmp_path / "again", storage_url=fresh_store, **more) as plant:
        plant.environment |= reach
        assert plant.mill.counts(job).done == made["record"]["objects"]
        plant.dispatcher()
        plant.worker()
        assert plant.finishes(job), plant.logs
        assert plant.mill.counts(job) == Counts(done=IMAGES)
        checked = last_json(imagemill("verify", "latest", "--json", environment=there))
        assert (checked["checked"], checked["findings"]) == (IMAGES, [])
    assert _files(fresh_url) == _files(url), "the same rows, the same files"


def _files(url: str) -> list[tuple[int, str]]:
    database = Database(url)
    query = text("SELECT i.id, o.sha256 FROM images i JOIN objects o ON o.id = i.object_id")
    with database.reading() as session:
        found = sorted(tuple(row) for row in session.execute(query))
    database.close()
    return found

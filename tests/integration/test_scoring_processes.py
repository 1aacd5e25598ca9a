"""Scoring by real processes that are killed: each image has each score once."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from imagemill.db.database import Database
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from tests.helpers.dataset import finished_job
from tests.helpers.http.chat_server import chat_server
from tests.helpers.mill import Mill
from tests.helpers.places import ROOT
from tests.helpers.processes import forks
from tests.helpers.template import migrate_quickly
from tests.integration.workers import Plant, bury, eventually, lives, planted

ROWS = [{"prompt": f"a red circle {n}", "id": f"r{n}"} for n in range(100)]

SCORER = """
import pathlib, time

class Slow:
    yields = ("slow",)
    batch = 8

    def score(self, pictures, records):
        while records[-1].image_id > 100 and not pathlib.Path(GATE).exists():
            time.sleep(0.01)
        return [{"slow": float(record.image_id)} for record in records]
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package that adds the scorer `slow`, for PYTHONPATH.

    It judges no image behind the hundredth before there is a file `gate`.
    """
    folder = tmp_path / "packages"
    about = folder / "slow_scorer-0.3.dist-info"
    about.mkdir(parents=True)
    (folder / "slow_scorer.py").write_text(f"GATE = {str(tmp_path / 'gate')!r}\n{SCORER}")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-scorer\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text("[imagemill.scorers]\nslow = slow_scorer:Slow\n")
    return folder


def counted(database: Database) -> int:
    with database.reading() as session:
        return session.execute(text("SELECT count(*) FROM scores")).scalar_one()


def at_work(database: Database) -> int:
    """The pid of a process that holds work, after something was recorded."""
    query = text(
        "SELECT w.pid FROM workers w JOIN shifts s ON s.worker_id = w.id"
        " JOIN score_work p ON p.shift_id = s.id WHERE s.ended_at IS NULL"
    )
    found: list[int] = []

    def busy() -> bool:
        with database.reading() as session:
            found[:] = session.scalars(query).all()
        return bool(found) and counted(database) > 0

    assert eventually(busy)
    return found[0]


def kill(mill: Mill, pid: int) -> None:
    """Kill a process; its lease is over with it."""
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not lives(pid))
    bury(mill)


def assert_each_once(database: Database, images: int) -> None:
    with database.reading() as session:
        rows = session.execute(text("SELECT image_id, value, version FROM dataset_scores")).all()
        left = session.execute(text("SELECT count(*) FROM score_work")).scalar_one()
        failed = session.execute(text("SELECT count(*) FROM score_failures")).scalar_one()
    assert (len(rows), left, failed) == (images, 0, 0)
    assert set(Counter(row.image_id for row in rows).values()) == {1}
    assert all(row.value == row.image_id and row.version == "0.3" for row in rows)


def test_a_pass_here_goes_on_after_its_process_was_killed(tmp_path: Path, package: Path) -> None:
    home = tmp_path / "home"
    (home / "objects").mkdir(parents=True)
    database = Database.from_settings(Settings.for_home(home))
    migrate_quickly(database)
    mill = Mill(database)
    finished_job(mill, FolderStorage(home / "objects"), tmp_path, ROWS)
    environment = os.environ | {"PYTHONPATH": str(package), "IMAGEMILL_CHILDREN": "1"}
    command = [sys.executable, "-m", "imagemill", "--home", str(home), "score", "latest"]
    with subprocess.Popen(
        [*command, "--with", "slow"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        worker = at_work(database)
        kill(mill, worker)
        (tmp_path / "gate").touch()
        out, _ = running.communicate(timeout=240)
    assert running.returncode == 0
    assert not lives(worker)
    assert "slow" in out
    assert_each_once(database, 200)
    again = subprocess.run(
        [*command, "--with", "slow", "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"queued": {"slow": 0}' in again.stdout
    database.close()


def test_a_judge_of_the_registry_file_is_asked_by_the_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "objects").mkdir(parents=True)
    database = Database.from_settings(Settings.for_home(home))
    migrate_quickly(database)
    finished_job(Mill(database), FolderStorage(home / "objects"), tmp_path, ROWS[:4])
    registry = tmp_path / "models.toml"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {"IMAGEMILL_MODELS": str(registry)}
        return forks.run(["--home", str(home), *words], environment=environment)

    with chat_server() as server:
        server.answers = ["no idea"]
        registry.write_text(
            f'[scorers.fits]\nkind = "judge"\nurl = "{server.url}"\nmodel = "m"\nretries = 0\n'
            'question = "Does it show {prompt}?"\nparallel = 2\n'
        )
        first = run("score", "latest", "--with", "fits")
        assert first.returncode == 1, first.stderr
        assert "fits: 1 image failed (score): it answered 'no idea'" in first.stdout
        server.usual = 503
        away = run("score", "latest", "--with", "fits")
        assert away.returncode == 3
        assert away.stderr.splitlines()[-1].startswith("error: the scoring process ended: service")
        server.usual = "9"
        assert run("score", "latest", "--with", "fits").returncode == 0
    assert len(server.requests) == 10, "8 images, and twice more the one that failed"
    found = json.loads(run("show", "1", "--json").stdout)["image"]
    assert set(found["scores"]) == {"fits", "fits_tokens", "fits_cost"}
    assert run("tag", "image:1", "good").returncode == 0
    assert "tags         good" in run("show", "1").stdout
    database.close()


@pytest.fixture
def plant(database_url: str, broker_url: str, tmp_path: Path, package: Path) -> Iterator[Plant]:
    folder = tmp_path / "logs"
    folder.mkdir()
    settings = {
        "broker_url": broker_url,
        "storage_url": str(tmp_path / "objects"),
        "retry_seconds": "0",
    }
    with planted(database_url, folder, **settings) as found:
        found.environment["PYTHONPATH"] = str(package)
        yield found


def test_a_celery_worker_that_is_killed_loses_and_doubles_nothing(
    plant: Plant, tmp_path: Path
) -> None:
    (tmp_path / "objects").mkdir()
    finished_job(plant.mill, FolderStorage(tmp_path / "objects"), tmp_path, ROWS)
    plant.dispatcher()
    plant.worker()
    done = subprocess.run(
        [sys.executable, "-m", "imagemill", "score", "latest", "--with", "slow", "--json"],
        cwd=ROOT,
        env={**os.environ, **plant.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"queued": {"slow": 200}' in done.stdout
    kill(plant.mill, at_work(plant.database))
    (tmp_path / "gate").touch()
    assert eventually(lambda: counted(plant.database) == 200), plant.logs
    assert_each_once(plant.database, 200)

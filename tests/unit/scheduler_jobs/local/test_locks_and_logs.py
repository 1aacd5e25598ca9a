"""A server's folder belongs to one process, and a worker that can't start says why."""

from pathlib import Path

import pytest

from imagemill.db.errors import StorageError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local import seaweedfs
from imagemill.scheduler_jobs.local.seaweedfs import PORTS, SeaweedServer
from imagemill.scheduler_jobs.local.server import FolderLock
from imagemill.scheduler_jobs.local.worker import LocalWorker


def test_two_stores_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seaweedfs, "LOCK_SECONDS", 0.1)
    other = FolderLock(tmp_path / "seaweedfs.lock")
    assert other.take(0)
    assert other.take(0), "it has it already"
    assert len(other.handles) == 1, "the server keeps it open after its launcher has ended"
    server = SeaweedServer(
        tmp_path,
        ports=dict.fromkeys(PORTS, 1),
        bucket="pictures",
        access_key="a",
        secret_key="b",
        log=tmp_path / "log",
    )
    with pytest.raises(StorageError, match="another SeaweedFS is running in"):
        server.start()
    other.release()
    assert FolderLock(tmp_path / "seaweedfs.lock").take(0)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Traceback\nModuleNotFoundError: No module named 'torch'\n\n", "No module named 'torch'"),
        ("error: the device cuda is not here\n", "the device cuda is not here"),
        ("2026 ERROR 1 imagemill: the model is gone\n2026 INFO 1 bye\n", "the model is gone"),
        (None, "it said nothing"),
    ],
)
def test_a_worker_that_can_not_start_says_why(tmp_path: Path, said: str | None, shown: str):
    log = tmp_path / "worker.log"
    if said is not None:
        log.write_text(said)
    told = LocalWorker(Settings(), log).last_error()
    assert str(log) in told
    assert told.endswith(shown)

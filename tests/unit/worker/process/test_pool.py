"""What a worker's status says when no child can be started. See also test_worker_signals.py."""

import threading

import pytest
from celery.concurrency.prefork import TaskPool as PreforkPool

from imagemill.worker.process import pool


@pytest.fixture(autouse=True)
def unbroken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_broken", threading.Event())


def test_a_pool_that_never_gets_a_child_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(PreforkPool, "on_start", no_process)
    monkeypatch.setattr(pool, "prepare_to_fork", lambda: None)  # it imports torch
    assert pool.exit_status() == 0
    with pytest.raises(BlockingIOError):
        pool.TaskPool(1).on_start()
    assert pool.exit_status() == 70

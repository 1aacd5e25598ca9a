"""How a pool of children begins and ends. See also test_worker_signals.py."""

import os
import threading
import time

import pytest
from billiard.pool import RUN
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


def test_a_child_signs_off_and_ends_without_a_pause() -> None:
    """Celery's own would wait a second for its parent's signal."""
    reading, writing = os.pipe()
    child = object.__new__(pool.ReplaceableChild)
    child.on_exit = lambda pid, status: os.write(writing, f"{pid} {status}".encode())
    pid = os.fork()
    if pid == 0:
        # Only here: in the tests' process, threads of earlier tests may still be pausing.
        time.sleep = lambda _: os._exit(99)
        child._do_exit(os.getpid(), None)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with os.fdopen(reading) as told:
        assert told.read() == f"{pid} 0"


def test_a_pool_is_left_as_soon_as_its_children_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []

    class Pool:
        _state = RUN

        def close(self) -> None:
            steps.append("close")

        def join(self) -> None:
            steps.append("join")

    def pause(_: float) -> None:
        if threading.get_ident() == mine:
            steps.append("sleep")

    mine = threading.get_ident()
    monkeypatch.setattr(time, "sleep", pause)
    it = pool.TaskPool(1)
    it._pool = Pool()
    it.on_stop()
    assert steps == ["close", "join"]
    it.on_stop()
    assert steps == ["close", "join"], "it has stopped already"

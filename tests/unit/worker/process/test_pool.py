"""How a pool of children begins and ends. See also test_worker_signals.py."""

import os
import threading
import time

import billiard
import pytest
from billiard import pool as billiard_pool
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


def test_no_child_waits_for_a_result_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that stops forgets a task it has not seen begin: `run` hung for 20 s at its end."""
    child = object.__new__(pool.ReplaceableChild)
    child.on_ready_counter = billiard.Value("i")
    handler = object.__new__(pool.SupervisedPool.ResultHandler)
    handler.on_ready_counters = {1: child.on_ready_counter}
    handler.cache, handler.fileno_to_outq, handler.check_timeouts = {}, {}, None
    handler.on_state_change = handler.join_exited_workers = None
    handler.on_stop_not_started()
    monkeypatch.setattr(billiard_pool, "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT", 1)
    assert child._ensure_messages_consumed(1_000_000)


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

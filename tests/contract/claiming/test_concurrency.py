"""Many processes on one database: nothing twice, nothing lost, every count exact."""

import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from imagemill.db.database import Database
from imagemill.db.states import ImageState
from tests.helpers.mill import CRASH, REFUSED, Mill, spec
from tests.integration.workers import eventually

IMAGES = 1_000

_PROCESSES = multiprocessing.get_context("forkserver")
"""Forks of a process without threads and connections, which has imported this module."""

_PROCESSES.set_forkserver_preload([__name__])


def _url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def _render_all(url: str, seed: int) -> dict[str, list[int]]:
    """Claim until nothing is ready: complete most, fail some, give some back."""
    mill = Mill(Database(url))
    shift = mill.shift(lease_seconds=3600)
    done: list[int] = []
    lost: list[int] = []
    turn = seed
    while held := mill.claim(shift, limit=8):
        turn += 1
        mill.begin(shift, [image.id for image in held])
        if turn % 7 == 0:
            mill.give_back(shift, [held.pop().id])
        if turn % 5 == 0 and held:
            image = held.pop()
            assert mill.fail(shift, image.id, REFUSED) is ImageState.DEAD
            lost.append(image.id)
        assert mill.complete(shift, held) == len(held)
        done += [image.id for image in held]
    assert mill.end(shift)
    mill.database.close()
    return {"done": done, "lost": lost}


def _fold_until(url: str, stop) -> int:
    mill = Mill(Database(url))
    rounds = 0
    while not stop.is_set():
        mill.fold()
        mill.finish_jobs()
        mill.rescue()
        rounds += 1
        time.sleep(0.005)
    mill.database.close()
    return rounds


def test_four_workers_share_a_thousand_images(mill: Mill) -> None:
    """While a fifth process folds, finishes and rescues all the time."""
    url = _url(mill.database)
    loaded = [
        mill.load(f"job {n}", [spec(f"{n} {i}") for i in range(IMAGES // 4)]) for n in range(4)
    ]
    with _PROCESSES.Manager() as manager, ProcessPoolExecutor(5, mp_context=_PROCESSES) as pool:
        stop = manager.Event()
        folder = pool.submit(_fold_until, url, stop)
        workers = [pool.submit(_render_all, url, seed) for seed in range(4)]
        try:
            results = [worker.result(800) for worker in workers]
        finally:
            stop.set()
        assert folder.result(240) > 0
    moved = Counter(image for result in results for ids in result.values() for image in ids)
    assert len(moved) == IMAGES
    assert set(moved.values()) == {1}
    dead = sum(len(result["lost"]) for result in results)
    counts = [mill.counts(job) for job in loaded]
    assert sum(each.dead for each in counts) == dead
    assert sum(each.done for each in counts) == IMAGES - dead
    assert all(each.pending == 0 and each.requested == IMAGES // 4 for each in counts)
    mill.finish_jobs()
    assert {mill.job(job).state for job in loaded} == {"finished"}


def _operate(url: str, job_id: int, stop) -> None:
    mill = Mill(Database(url))
    while not stop.is_set():
        mill.pause(job_id)
        mill.resume(job_id)
        mill.retry(job_id)
        mill.cancel_stragglers()
    mill.cancel(job_id)
    mill.database.close()


def _work_under_operators(url: str, stop) -> None:
    mill = Mill(Database(url))
    shift = mill.shift(lease_seconds=3600)
    turn = 0
    while not stop.is_set():
        held = mill.claim(shift, limit=4)
        for image in held[:1]:
            mill.fail(shift, image.id, REFUSED if turn % 2 else CRASH)
        mill.complete(shift, held[1:3])
        mill.give_back(shift)
        mill.wait_out()
        turn += 1
    mill.end(shift)
    mill.database.close()


def test_operators_and_workers_at_the_same_time(mill: Mill) -> None:
    """Jobs that ask for the same requests, paused, resumed, retried and cancelled under work."""
    url = _url(mill.database)
    requests = [spec(f"p{n}") for n in range(150)]
    loaded = [mill.load(f"job {n}", requests) for n in range(2)]
    with _PROCESSES.Manager() as manager, ProcessPoolExecutor(5, mp_context=_PROCESSES) as pool:
        stop = manager.Event()
        running = [pool.submit(_operate, url, loaded[0], stop)]
        running += [pool.submit(_work_under_operators, url, stop) for _ in range(2)]
        running += [pool.submit(_fold_until, url, stop)]
        time.sleep(2)
        stop.set()
        for each in running:
            each.result(400)
    mill.cancel_stragglers()
    assert mill.counts(loaded[0]).pending == 0
    assert mill.counts(loaded[1]).leased == 0
    assert [mill.counts(job).requested for job in loaded] == [150, 150]


def _claim_and_die(url: str) -> None:
    import os
    import signal

    mill = Mill(Database(url))
    shift = mill.shift()
    with mill.database.writing() as session:
        from imagemill.db.queries.work import claims

        held = claims.claim(session, shift_id=shift, group_id=1, route="default", limit=8)
        assert held
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_in_the_middle_of_a_claim_holds_nothing(mill: Mill) -> None:
    job = mill.load("job", [f"p{n}" for n in range(10)])
    with ProcessPoolExecutor(1, mp_context=_PROCESSES) as pool, pytest.raises(BrokenProcessPool):
        pool.submit(_claim_and_die, _url(mill.database)).result(240)
    assert mill.counts(job).ready == 10
    shift = mill.shift()
    held: list[int] = []

    def all_claimed() -> bool:
        # The server may take a moment to see that its client is gone, and to drop its locks.
        held.extend(image.id for image in mill.claim(shift, limit=10))
        return len(held) == 10

    assert eventually(all_claimed), held

"""`max_workers`: never more worker processes render a job than it may have, on both databases."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from imagemill.db.errors import UsageError
from imagemill.db.queries.jobs.job_edits import JobEdit, edit_job
from imagemill.db.queries.work.due_images import due_images
from imagemill.db.states import ImageState
from imagemill.db.tables import Image, Job
from tests.helpers.mill import DIGEST, Mill, spec

OTHER = "b" * 64


def prompts(count: int) -> list[str]:
    return [f"p{n}" for n in range(count)]


def edit(mill: Mill, job: str, **change: int) -> Job:
    return mill.database.run(lambda session: edit_job(session, job, JobEdit(**change)))


def shifts_of(mill: Mill, count: int) -> list[int]:
    return [mill.shift(worker_id=mill.worker(f"w{n}@host:{n}")) for n in range(count)]


def test_only_so_many_workers_get_images_of_a_job(mill: Mill) -> None:
    job = mill.load("job", prompts(20), max_workers=2)
    first, second, third = shifts_of(mill, 3)
    assert [len(mill.claim(each, limit=2)) for each in (first, second, third)] == [2, 2, 0]
    assert [len(mill.claim(each, limit=2)) for each in (first, second, third)] == [2, 2, 0]
    mill.give_back(first)
    assert len(mill.claim(third, limit=2)) == 2, "a seat is free as soon as nothing is held"
    assert mill.claim(first, limit=2) == []
    mill.end(second)
    assert len(mill.claim(first, limit=2)) == 2
    mill.expire(third)
    assert len(mill.claim(shifts_of(mill, 4)[3], limit=2)) == 2, "a lease that is over holds none"
    assert mill.job(job).max_workers == 2


def test_whoever_finds_no_seat_takes_another_job(mill: Mill) -> None:
    mill.load("limited", prompts(20), max_workers=1, priority=9)
    other = mill.load("other", [spec("x"), spec("y", digest=OTHER)])
    first, second = shifts_of(mill, 2)
    mill.claim(first, limit=2)
    choice = mill.choose(worker_id=mill.worker_id)
    assert choice is not None, "the group of the other job"
    assert {image.job_id for image in mill.claim(second, group_id=choice.id)} == {other}
    for group in (mill.group_of(DIGEST), mill.group_of(OTHER)):
        mill.claim(second, group_id=group)
    assert mill.choose(worker_id=mill.worker_id) is None
    assert mill.claim(second, group_id=mill.group_of(DIGEST)) == []


def test_the_worker_with_the_seat_goes_on_choosing_the_job(mill: Mill) -> None:
    mill.load("limited", prompts(20), max_workers=1)
    mill.claim(mill.shift(), limit=2)
    assert mill.choose(worker_id=mill.worker_id) is not None
    assert mill.choose(worker_id=mill.worker("other@host:1")) is None


def test_a_job_with_all_its_workers_wakes_nobody(mill: Mill) -> None:
    mill.load("limited", prompts(20), max_workers=1)
    assert mill.database.run(due_images) == {"default": 20}
    shift = mill.shift()
    mill.claim(shift, limit=2)
    assert mill.database.run(due_images) == {}
    mill.end(shift)
    assert mill.database.run(due_images) == {"default": 20}


def test_the_number_is_changed_while_the_job_runs(mill: Mill) -> None:
    mill.load("job", prompts(40))
    held = shifts_of(mill, 3)
    for each in held[:2]:
        mill.claim(each, limit=2)
    assert edit(mill, "job", max_workers=2).max_workers == 2
    assert [len(mill.claim(each, limit=2)) for each in held] == [2, 2, 0], "who works, has a seat"
    edit(mill, "job", max_workers=3)
    assert len(mill.claim(held[2], limit=2)) == 2
    edit(mill, "job", max_workers=1)
    assert sum(bool(mill.claim(each, limit=2)) for each in held) == 1
    assert edit(mill, "job", max_workers=0).max_workers is None
    assert all(mill.claim(each, limit=2) for each in held)


def test_a_change_of_a_job_that_is_over_is_refused(mill: Mill) -> None:
    job = mill.load("job", ["a"])
    assert edit(mill, "job", priority=7).priority == 7
    mill.cancel(job)
    with pytest.raises(UsageError, match="is cancelled"):
        edit(mill, "job", priority=1)


def test_claims_at_the_same_time_never_pass_the_number(mill: Mill) -> None:
    """Eight workers claim, give back and end at random; a watcher counts who holds images."""
    job = mill.load("job", prompts(400), max_workers=3)
    until, most = threading.Event(), 0

    def work(number: int) -> int:
        chance, claimed = random.Random(number), 0
        worker = mill.worker(f"c{number}@host:{number}")
        shift = mill.shift(worker_id=worker)
        for _ in range(25):
            claimed += len(mill.claim(shift, limit=2, group_id=1))
            if chance.random() < 0.5:
                mill.give_back(shift)
            elif chance.random() < 0.2:
                mill.end(shift)
                shift = mill.shift(worker_id=worker)
        mill.end(shift)
        return claimed

    def watch() -> int:
        holders = select(func.count(Image.shift_id.distinct())).where(
            Image.job_id == job, Image.state == ImageState.LEASED
        )
        seen = 0
        while not until.is_set():
            with mill.database.reading() as session:
                seen = max(seen, session.scalar(holders) or 0)
        return seen

    with ThreadPoolExecutor(9) as pool:
        watched = pool.submit(watch)
        claimed = list(pool.map(work, range(8)))
        until.set()
        most = watched.result()
    assert 1 <= most <= 3
    assert sum(claimed) > 100, "they did get on"
    assert mill.audit() == []

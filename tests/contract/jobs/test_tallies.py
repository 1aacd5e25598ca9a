"""Counts of images: by route, due or waiting, and however often they are folded."""

import pytest
from sqlalchemy import select

from imagemill.db.queries import tallies
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work.due_images import due_images
from imagemill.db.tables import Tally
from tests.helpers.backlog import ready_images
from tests.helpers.mill import CRASH, Mill


def prompts(count: int) -> list[str]:
    return [f"prompt {n}" for n in range(count)]


def test_ready_images_are_counted_by_route(mill: Mill) -> None:
    mill.load("a", prompts(2))
    mill.load("b", prompts(3), route="80gb")
    mill.pause(mill.load("c", prompts(3), route="paused"))
    assert mill.database.run(ready_images) == {"default": 2, "80gb": 3}
    shift = mill.shift()
    mill.claim(shift)
    assert mill.database.run(ready_images) == {"80gb": 3}


def test_groups_that_wait_out_their_retries_are_not_due(mill: Mill) -> None:
    mill.load("job", ["a", "b"])
    mill.load("far", ["c"], route="80gb")
    shift = mill.shift()
    first, second = mill.claim(shift)
    mill.fail(shift, first.id)
    mill.give_back(shift, [second.id])
    # Two wait at the default route, and one of them can be claimed.
    assert mill.database.run(due_images) == {"default": 2, "80gb": 1}
    mill.fail(shift, mill.claim(shift)[0].id)
    assert mill.database.run(due_images) == {"80gb": 1}
    assert mill.database.run(ready_images) == {"default": 2, "80gb": 1}
    mill.wait_out()
    assert mill.database.run(due_images) == {"default": 2, "80gb": 1}


def test_folding_changes_no_count(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = mill.load("one", prompts(30)), mill.load("two", prompts(5))
    shift = mill.shift()
    while held := mill.claim(shift, limit=3):
        mill.complete(shift, held[:2])
        mill.fail(shift, held[2].id, CRASH) if len(held) > 2 else None
        before = [mill.counts(job) for job in (one, two)]
        assert mill.database.run(lambda session: tallies.fold(session, at_most=4)) >= 0
        assert [mill.counts(job) for job in (one, two)] == before
    mill.fold()
    assert mill.fold() == 0
    with mill.database.reading() as session:
        places = session.execute(select(Tally.job_id, Tally.group_id, Tally.state)).all()
        assert len(places) == len(set(places))
        assert 0 not in session.scalars(select(Tally.delta)).all()


def test_unknown_jobs_count_nothing(mill: Mill) -> None:
    assert mill.counts(99) == Counts()
    assert Counts(ready=1, leased=2, done=3, dead=4, cancelled=5).requested == 15
    assert Counts(ready=1, leased=2, done=3).pending == 3

"""Deadlines: what is not rendered by then is cancelled, and that is said, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from imagemill.db.clock import seconds_from_now
from imagemill.db.queries.jobs.job_edits import JobEdit, edit_job
from imagemill.db.queries.jobs.overdue_jobs import cancel_overdue
from imagemill.db.states import JobState
from imagemill.db.tables import Job
from tests.helpers.mill import Mill

SOON = timedelta(hours=1)


def pass_deadline(mill: Mill, job: int) -> None:
    past = update(Job).where(Job.id == job).values(deadline_at=seconds_from_now(-1))
    mill.database.run(lambda session: session.execute(past))


def overdue(mill: Mill) -> int:
    return mill.database.run(cancel_overdue)


def test_a_duration_counts_by_the_databases_clock(mill: Mill) -> None:
    job = mill.job(mill.load("job", ["a"], deadline=SOON))
    assert job.deadline_at is not None
    assert abs(job.deadline_at - job.created_at - SOON) < timedelta(seconds=30)
    when = datetime(2099, 1, 2, 3, 4, tzinfo=UTC)
    assert mill.job(mill.load("other", ["b"], deadline=when)).deadline_at == when
    assert mill.job(mill.load("none", ["c"])).deadline_at is None


@pytest.mark.parametrize("state", ["open", "paused", "loading"])
def test_what_is_not_rendered_at_the_deadline_is_cancelled(mill: Mill, state: str) -> None:
    job = mill.load("job", [f"p{n}" for n in range(6)], deadline=SOON, opened=state != "loading")
    shift = mill.shift()
    if state != "loading":
        mill.complete(shift, mill.claim(shift, limit=2))
        assert len(mill.claim(shift, limit=1)) == 1
    if state == "paused":
        mill.pause(job)
    assert overdue(mill) == 0
    assert mill.job(job).state == state
    pass_deadline(mill, job)
    assert overdue(mill) == 1
    found = mill.job(job)
    assert found.state == JobState.CANCELLED
    assert found.message is not None
    assert found.message.startswith("its deadline passed: 20")
    mill.give_back(shift)
    counts = mill.counts(job)
    assert (counts.done, counts.pending) == (0 if state == "loading" else 2, 0)
    assert overdue(mill) == 0, "once"


def test_a_job_that_is_done_in_time_is_finished_and_may_be_opened_again(mill: Mill) -> None:
    job = mill.load("job", ["a", "b"], deadline=SOON)
    shift = mill.shift()
    images = mill.claim(shift)
    mill.complete(shift, images)
    pass_deadline(mill, job)
    assert overdue(mill) == 0, "it has nothing left to render"
    mill.pause(job)
    assert overdue(mill) == 0
    mill.resume(job)
    assert mill.finish_jobs() == 1
    assert mill.job(job).deadline_at is None
    assert mill.job(job).state == JobState.FINISHED


def test_a_deadline_is_set_changed_and_taken_away_later(mill: Mill) -> None:
    job = mill.load("job", ["a"])

    def edit(**change) -> Job:
        return mill.database.run(lambda session: edit_job(session, "job", JobEdit(**change)))

    assert edit(deadline=SOON).deadline_at is not None
    assert edit(priority=1).deadline_at is not None
    pass_deadline(mill, job)
    assert edit(no_deadline=True).deadline_at is None
    assert overdue(mill) == 0

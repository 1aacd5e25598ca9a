"""`retry`, `pause`, `resume`, `cancel` and `watch`: they move jobs, and say so."""

import json

import pytest

from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work import shifts
from imagemill.db.states import JobState
from imagemill.scheduler_jobs.cli.commands.look import watch as watching
from tests.helpers.mill import REFUSED


@pytest.fixture
def job(mill):
    return mill.load("shapes", ["a circle", "a square"])


@pytest.fixture
def job_with_dead(mill, job):
    shift = mill.shift()
    first, second = mill.claim(shift)
    mill.begin(shift, [first.id, second.id])
    mill.complete(shift, [first])
    mill.fail(shift, second.id, REFUSED)
    mill.end(shift)
    mill.finish_jobs()
    return job


def test_pause_and_resume(at_home, mill, job):
    assert at_home("pause", "shapes", "--json").json["state"] == "paused"
    assert mill.job(job).state == JobState.PAUSED
    assert "already paused" in at_home("pause", job).out
    assert at_home("resume", "latest", "--json").json["state"] == "open"
    assert mill.job(job).state == JobState.OPEN


def test_cancel_keeps_what_is_done_and_cancels_the_rest(at_home, mill, job):
    shift = mill.shift()
    (image,) = mill.claim(shift, limit=1)
    mill.begin(shift, [image.id])
    mill.complete(shift, [image])
    assert at_home("cancel", job, "--json").json["counts"] == {
        "ready": 0,
        "leased": 0,
        "done": 1,
        "dead": 0,
        "cancelled": 1,
    }


@pytest.mark.parametrize("step", ["pause", "resume", "retry"])
def test_a_step_that_the_state_forbids_is_an_error(at_home, job, step):
    at_home("cancel", job)
    answer = at_home(step, job)
    assert answer.code == 2
    assert "is cancelled" in answer.err


def test_retry_makes_dead_images_ready(at_home, mill, job_with_dead):
    assert at_home("retry", "latest", "--code", "another", "--json").json["retried"] == 0
    assert at_home("retry", "latest", "--code", "input_image", "--json").json["retried"] == 1
    assert mill.counts(job_with_dead) == Counts(ready=1, done=1)
    assert mill.job(job_with_dead).state == JobState.OPEN
    assert "nothing to retry" in at_home("retry", "latest").out


def test_watch_ends_with_the_job(at_home, mill, job):
    shift = mill.shift()
    images = mill.claim(shift)
    mill.complete(shift, images)
    answer = at_home("watch", "latest")
    assert answer.code == 0
    assert "2 images done of 2" in answer.out


def test_watch_says_where_no_live_worker_takes_the_route(at_home, mill, job, monkeypatch):
    """Without it, watching a job that nobody renders looks like watching a slow one."""

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "sleep", interrupt)
    told = (
        "no live worker takes the route {0}: nothing is rendered until `imagemill "
        f"--home {at_home.home} worker{{1}}` runs; one just started needs some seconds"
    )
    assert at_home("watch", job).err.strip() == "", "an idle worker is there"
    far = mill.load("far", ["a circle"], route="80gb")
    assert at_home("watch", far).err.strip() == told.format("80gb", " --route 80gb")
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    answer = at_home("watch", job)
    assert answer.err.strip() == told.format("default", "")
    assert "0/2 · waiting for a worker" in answer.out


def test_watch_fails_if_images_are_dead(at_home, job_with_dead):
    answer = at_home("watch", "latest", "--json")
    assert answer.code == 1
    assert answer.json["ended"] is True
    assert answer.json["counts"]["dead"] == 1


def test_watch_looks_again_until_the_job_ends(at_home, mill, job, monkeypatch):
    def work(seconds):
        shift = mill.shift()
        mill.complete(shift, mill.claim(shift, limit=1))

    monkeypatch.setattr(watching, "sleep", work)
    answer = at_home("watch", job, "--json")
    looks = [json.loads(line) for line in answer.out.splitlines()]
    assert [look["counts"]["done"] for look in looks] == [0, 1, 2]
    assert [look["ended"] for look in looks] == [False, False, True]


def test_ctrl_c_ends_the_watching_cleanly(at_home, job, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "sleep", interrupt)
    answer = at_home("watch", job)
    assert answer.code == 130
    assert "Traceback" not in answer.err


def test_cancel_goes_on_until_nothing_is_left_to_cancel(at_home, mill, monkeypatch):
    monkeypatch.setattr(lifecycle, "CANCELLED_AT_ONCE", 3)
    job = mill.load("large", [f"p{n}" for n in range(10)])
    assert at_home("cancel", str(job), "--json").json["counts"]["cancelled"] == 10

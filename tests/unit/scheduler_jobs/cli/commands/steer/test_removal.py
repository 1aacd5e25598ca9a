"""`rm` and `prune`: they say what would go, and remove it when told to."""

import os
import threading
from datetime import timedelta

import pytest
from sqlalchemy import update

from imagemill.db.clock import seconds_from_now
from imagemill.db.queries.labels import set_labels
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs import retention
from imagemill.scheduler_jobs.dispatcher import Dispatcher
from tests.contract.pictures.test_upkeep import fill, keys

DAY = 86_400


@pytest.fixture
def store(home):
    return FolderStorage(home / "objects")


@pytest.fixture
def jobs(mill, store):
    """Two finished jobs that share a picture."""
    store.probe()
    return fill(mill, store, "first", ["a", "b"]), fill(mill, store, "second", ["b", "c"])


def aged(mill, job, days):
    past = update(Job).where(Job.id == job).values(finished_at=seconds_from_now(-days * DAY))
    mill.database.run(lambda session: session.execute(past))


def left(at_home):
    return [job["job_name"] for job in at_home("jobs", "--json").json["jobs"]]


def test_rm_says_what_would_go_and_removes_nothing(at_home, jobs, store):
    answer = at_home("rm", "first")
    assert answer.code == 0
    assert answer.out.splitlines()[0].split() == [
        *("JOB", "NAME", "STATE", "IMAGES", "FILES", "SIZE", "SHARED")
    ]
    assert "nothing was removed; --yes removes 1 job with 2 images and 1 file (72 " in answer.out
    document = at_home("rm", "first", "first", "2", "--json").json
    assert [job["job_name"] for job in document["jobs"]] == ["first", "second"]
    assert (document["images"], document["objects"], document["removed"]) == (4, 3, False)
    assert left(at_home) == ["second", "first"]
    assert len(keys(store)) == 3


def test_rm_removes_what_it_is_told_to(at_home, jobs, store):
    answer = at_home("rm", "first", "--yes")
    assert "removed 1 job with 2 images; deleted 1 file" in answer.out
    assert left(at_home) == ["second"]
    again = at_home("rm", "first")
    assert again.code == 2
    assert "job 1 (first) was removed on 20" in again.err
    assert at_home("verify", "second").code == 0
    assert at_home("rm", "latest", "--yes", "--json").json["files_deleted"] == 2
    assert keys(store) == []
    assert at_home("sweep").out == "0 files without an image, 0 unfinished files\n"


def test_rm_refuses_all_if_one_is_live(at_home, mill, jobs):
    mill.load("live", ["z"])
    answer = at_home("rm", "first", "live", "--yes")
    assert answer.code == 2
    assert "job 3 (live) is open: `imagemill cancel 3` comes first" in answer.err
    assert left(at_home) == ["live", "second", "first"]


def test_names_of_pictures_go_and_a_file_of_somebody_s_own_stays(at_home, home, mill, jobs):
    first, second = home / "pictures", home / f"pictures-{jobs[1]}"
    for folder, job in ((first, jobs[0]), (second, jobs[1])):
        (folder / "deep").mkdir(parents=True)
        for image in at_home("images", job, "--json").json["images"]:
            os.link(home / "objects" / image["object_key"], folder / f"{image['image_id']}.png")
            copy = folder / "deep" / f"copy-{image['image_id']}.png"
            copy.write_bytes((home / "objects" / image["object_key"]).read_bytes())
    (first / "mine.txt").write_text("mine")
    sheets = [home / "contact-sheet.png", home / f"contact-sheet-{jobs[1]}.png"]
    for sheet in sheets:
        sheet.write_bytes(b"a page of pictures")
    at_home("rm", "first", "--yes")
    assert [sheet.exists() for sheet in sheets] == [False, True]
    assert [path.name for path in first.rglob("*")] == ["mine.txt"]
    assert len([path for path in second.rglob("*") if path.is_file()]) == 4
    assert at_home("rm", "second", "--yes").code == 0
    assert not second.exists()
    assert not sheets[1].exists()


def test_prune_chooses_by_age_and_labels(at_home, mill, jobs):
    first, _ = jobs
    aged(mill, first, 40)
    assert at_home("prune", "--older-than", "50d").out == "no job to remove\n"
    planned = at_home("prune", "--older-than", "30d", "--json").json
    assert [job["job_id"] for job in planned["jobs"]] == [first]
    mill.database.run(lambda session: set_labels(session, first, {"keep": ""}))
    for words in (["--keep-label", "keep"], ["--label", "team"]):
        assert at_home("prune", "--older-than", "30d", *words, "--json").json["jobs"] == []
    done = at_home("prune", "--older-than", "1.5w", "--label", "keep", "--yes")
    assert "removed 1 job" in done.out
    assert left(at_home) == ["second"]


@pytest.mark.parametrize("age", ["30", "d", "-1d", "30 days", "1e9d"])
def test_an_age_that_is_none_is_refused(at_home, age):
    answer = at_home("prune", "--older-than", age)
    assert answer.code == 2
    assert "is no age" in answer.err


def test_the_dispatcher_prunes_where_it_is_told_to(at_home, home, mill, jobs):
    _, second = jobs
    for job in jobs:
        aged(mill, job, 40)
    mill.database.run(lambda session: set_labels(session, second, {"keep": ""}))
    assert retention.Retention.from_settings(mill.database, Settings.for_home(home)) is None
    settings = Settings.for_home(home, prune_days=30, broker_url="redis://127.0.0.1:1/0")
    found = retention.Retention.from_settings(mill.database, settings)
    assert found is not None
    assert found.run_once().jobs == 1
    assert left(at_home) == ["second"]
    # In the dispatcher it runs beside the rounds, and ends with them.
    aged(mill, fill(mill, FolderStorage(home / "objects"), "third", ["d"]), 31)
    stop = threading.Event()
    [thread] = Dispatcher(mill.database, settings)._start_retention(stop)
    deadline = timedelta(seconds=240) / timedelta(seconds=0.05)
    while left(at_home) != ["second"] and deadline > 0:
        deadline -= 1
        stop.wait(0.05)
    stop.set()
    thread.join(120)
    assert left(at_home) == ["second"]

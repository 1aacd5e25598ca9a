"""Reports say the same on SQLite and on PostgreSQL."""

import pytest
from sqlalchemy import text

from imagemill.db.errors import UnknownImage
from imagemill.db.queries.fleet import reports
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.jobs.lifecycle import NewJob
from imagemill.db.queries.pictures import image_reports
from imagemill.db.queries.pictures.image_reports import ImageFilter
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work import shifts
from imagemill.db.states import ImageState, JobState, Outcome
from tests.helpers.mill import DIGEST, REFUSED, spec


@pytest.fixture
def read(mill):
    """Calls a report in a transaction of its own."""

    def call(report, *args, **kwargs):
        with mill.database.reading() as session:
            return report(session, *args, **kwargs)

    return call


@pytest.fixture
def worked(mill):
    """A job with two groups: of one, an image is done, one dead, one leased; the other waits."""
    specs = [spec(f"prompt {n}") for n in range(3)] + [spec("wide", width=128)]
    job = mill.load("mixed", specs)
    shift = mill.shift()
    done, dead, _ = mill.claim(shift, group_id=mill.images(job)[0].group_id)
    mill.begin(shift, [done.id, dead.id])
    mill.complete(shift, [done])
    mill.fail(shift, dead.id, REFUSED)
    return job


def rate(read, job):
    return read(reports.rendering_rates, [job]).get(job)


def test_a_job_has_its_counts_rate_and_remaining_time(read, mill, worked):
    (report,) = read(reports.list_jobs)
    assert report.counts == Counts(ready=1, leased=1, done=1, dead=1)
    assert report.requested == 4
    assert (report.images_per_second, report.eta_seconds) == (None, None), "one image tells no rate"
    mill.age(10)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    (report,) = read(reports.list_jobs)
    assert report.images_per_second == pytest.approx(0.1, rel=0.3)
    assert report.eta_seconds == pytest.approx(1 / report.images_per_second)


def test_the_rate_does_not_count_the_time_before_the_first_image(read, mill):
    """A model that takes minutes to load made the first remaining time ten times too long."""
    job = mill.load("many", [f"p{n}" for n in range(20)])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=8))
    mill.age(5)
    assert rate(read, job) is None, "the first batch ends the start, and says nothing of the pace"
    mill.complete(shift, mill.claim(shift, limit=8))
    assert rate(read, job) == pytest.approx(8 / 5, rel=0.2)


def test_the_rate_of_a_job_that_goes_on_is_that_of_the_last_minute(read, mill):
    job = mill.load("many", [f"p{n}" for n in range(200)])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=8))
    mill.age(90)
    mill.complete(shift, mill.claim(shift, limit=60))
    assert rate(read, job) == pytest.approx(1.0, rel=0.1)


def test_a_slow_job_has_a_rate_too(read, mill):
    job = mill.load("slow", ["a", "b", "c", "d"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    mill.age(180)
    mill.complete(shift, mill.claim(shift, limit=1))
    assert rate(read, job) == pytest.approx(1 / 180, rel=0.1)


def test_a_job_with_nothing_left_is_finished_before_the_dispatcher_says_so(read, mill):
    over, live = mill.load("over", ["a"]), mill.load("live", ["b", "c"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    assert mill.job(over).state == JobState.OPEN
    states = {job.id: job.state for job in read(reports.list_jobs)}
    assert states == {over: JobState.FINISHED, live: JobState.OPEN}
    for state, ids in ((JobState.OPEN, [live]), (JobState.FINISHED, [over])):
        assert [job.id for job in read(reports.list_jobs, states=[state])] == ids
    assert [job.id for job in read(reports.list_jobs, states=reports.UNFINISHED)] == [live]


def test_a_route_is_served_while_a_worker_is_seen_that_takes_it(read, mill):
    assert read(reports.is_served, "default", {}), "an idle worker counts: it holds no shift"
    assert not read(reports.is_served, "80gb", {})
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    assert not read(reports.is_served, "default", {})


def test_a_finished_job_has_no_rate(read, mill):
    job = mill.load("one", ["a circle"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    mill.finish_jobs()
    (report,) = read(reports.list_jobs, states=[JobState.FINISHED])
    assert (report.id, report.images_per_second, report.eta_seconds) == (job, None, None)
    assert report.finished_at >= report.opened_at >= report.created_at


def test_more_events_than_are_looked_at_shorten_the_window(read, mill, worked, monkeypatch):
    mill.age(10)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    everything = read(reports.rendering_rates, [worked])[worked]
    monkeypatch.setattr(reports, "RATE_EVENTS", 1)
    # The newest event alone reaches no further back than itself.
    assert read(reports.rendering_rates, [worked]) == {}
    assert everything > 0


def test_jobs_are_paged(read, mill):
    ids = [mill.load(f"job {n}", ["a circle"]) for n in range(3)]
    assert [job.id for job in read(reports.list_jobs, limit=2)] == ids[:0:-1]
    assert [job.id for job in read(reports.list_jobs, before=ids[1])] == ids[:1]


def test_groups_come_with_the_largest_first(read, worked):
    groups = read(reports.list_groups, worked)
    assert [(group.width, group.counts) for group in groups] == [
        (64, Counts(leased=1, done=1, dead=1)),
        (128, Counts(ready=1)),
    ]
    assert {(group.model, group.guided) for group in groups} == {("m-aaaa", True)}


def test_outcomes_and_deaths_are_counted(read, worked):
    assert read(reports.count_outcomes, worked) == {"ok": 1}
    (dead,) = read(reports.count_dead, worked)
    assert (dead.code, dead.images, dead.message) == (REFUSED.code, 1, REFUSED.message)


def test_images_that_wait_out_a_retry_are_counted(read, mill):
    job = mill.load("job", ["a", "b", "c"])
    assert read(reports.count_waiting, job) is None
    shift = mill.shift()
    for image in mill.claim(shift, limit=2):
        mill.fail(shift, image.id)
    waiting = read(reports.count_waiting, job)
    assert waiting.images == 2
    assert 0 < waiting.seconds <= mill.policy.retry_seconds
    mill.wait_out()
    assert read(reports.count_waiting, job) is None


def test_workers_that_work_or_were_seen_are_alive(read, mill):
    assert [worker.working for worker in read(reports.list_workers)] == [False]
    shift = mill.shift()
    assert [worker.working for worker in read(reports.list_workers)] == [True]
    mill.expire(shift)
    assert [worker.working for worker in read(reports.list_workers)] == [False]


def test_images_are_filtered(read, worked):
    for which, rows in (
        (ImageFilter(), [1, 2, 3, 4]),
        (ImageFilter(state=ImageState.READY), [4]),
        (ImageFilter(outcome=Outcome.OK), [1]),
        (ImageFilter(outcome=Outcome.BLANK), []),
        (ImageFilter(code=REFUSED.code), [2]),
        (ImageFilter(job_id=1, row=3), [3]),
        (ImageFilter(row=3, state=ImageState.DONE), []),
        (ImageFilter(model="model-aaaa", state=ImageState.LEASED), [3]),
        (ImageFilter(job_id=99), []),
    ):
        found = read(image_reports.list_images, which, limit=10)
        assert [image.row for image in found] == rows, which


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_seed_is_the_same_wherever_it_is_read(read, mill, seed):
    """In lists and filters, in the view, in a job, and in the specification that a worker gets."""
    wanted = spec("a circle", seed=seed)
    job = mill.load("job", [wanted, spec("a square", seed=5)])
    assert [image.seed for image in mill.images(job)] == [seed, 5]
    (found,) = read(image_reports.list_images, ImageFilter(seed=seed), limit=9)
    assert (found.prompt, found.seed) == ("a circle", seed)
    assert read(image_reports.find_image, found.id).specification["seed"] == seed
    (claimed,) = mill.claim(mill.shift(), limit=1)
    assert claimed.spec == wanted
    with mill.database.reading() as session:
        query = text("SELECT seed FROM dataset_images ORDER BY image_id")
        assert [str(each) for each in session.scalars(query)] == [str(seed), "5"]


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_a_job_s_own_seed_is_kept(read, mill, seed):
    new = NewJob(
        name="job",
        identity=DIGEST,
        manifest="-",
        manifest_sha256=DIGEST,
        defaults={},
        seed=seed,
    )
    job, _ = mill.database.run(lambda session: lifecycle.find_or_create(session, new))
    (report,) = read(reports.list_jobs)
    assert (report.id, report.seed) == (job.id, seed)


def test_images_are_paged(read, worked):
    first = read(image_reports.list_images, ImageFilter(job_id=worked), limit=3)
    rest = read(image_reports.list_images, ImageFilter(job_id=worked), limit=3, after=first[-1].id)
    assert [image.row for image in (*first, *rest)] == [1, 2, 3, 4]


def test_a_done_image_has_file_environment_and_history(read, mill, worked):
    first = mill.images(worked)[0]
    detail = read(image_reports.find_image, first.id)
    assert detail.specification == spec("prompt 0").document()
    assert detail.file is not None
    assert detail.file.object_key.startswith(first.request_key)
    assert [(event.event, event.worker) for event in detail.history] == [("done", "w@host")]


def test_no_such_image(read, worked):
    with pytest.raises(UnknownImage, match="no image 999"):
        read(image_reports.find_image, 999)

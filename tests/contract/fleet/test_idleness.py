"""What a job waits for while nothing of it is in work, on both databases."""

from imagemill.db.queries.fleet.idleness import Idle, why_idle
from imagemill.db.queries.work import shifts
from tests.helpers.mill import Mill


def waits_for(mill: Mill, job_id: int) -> Idle | None:
    counts = mill.counts(job_id)
    with mill.database.reading() as session:
        return why_idle(session, mill.job(job_id), counts)


def test_between_two_claims_of_its_worker_a_job_waits_for_nothing(mill: Mill) -> None:
    """Nothing is leased then, and `watch` said that it waits for a worker."""
    job = mill.load("job", ["a", "b"])
    assert waits_for(mill, job) is None, "a free worker is there"
    shift = mill.shift()
    claimed = mill.claim(shift, limit=1)
    assert waits_for(mill, job) is None, "an image is in work"
    mill.complete(shift, claimed)
    assert mill.counts(job).leased == 0
    assert waits_for(mill, job) is None, "the shift takes the next one in a moment"
    mill.complete(shift, mill.claim(shift))
    assert waits_for(mill, job) is None, "nothing is left"


def test_without_a_worker_that_takes_it_a_job_waits_for_one(mill: Mill) -> None:
    job, far = mill.load("job", ["a"]), mill.load("far", ["b"], route="80gb")
    assert waits_for(mill, far) is Idle.WORKER
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    assert waits_for(mill, job) is Idle.WORKER


def test_while_its_workers_render_other_jobs_it_is_not_its_turn(mill: Mill) -> None:
    first = mill.load("first", ["a"])
    shift = mill.shift()
    mill.claim(shift)
    second = mill.load("second", ["b"])
    assert waits_for(mill, second) is Idle.TURN
    assert waits_for(mill, first) is None


def test_failed_images_that_wait_are_not_waiting_for_a_worker(mill: Mill) -> None:
    job = mill.load("job", ["a"])
    shift = mill.shift()
    (image,) = mill.claim(shift)
    mill.begin(shift, [image.id])
    mill.fail(shift, image.id)
    assert waits_for(mill, job) is Idle.RETRY


def test_a_paused_job_waits_for_nobody(mill: Mill) -> None:
    job = mill.load("job", ["a"])
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    mill.pause(job)
    assert waits_for(mill, job) is None

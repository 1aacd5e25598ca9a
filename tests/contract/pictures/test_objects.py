"""Recording: one object a request, every image that waits for it, nothing without a lease."""

import pytest
from sqlalchemy import func, select

from imagemill.db.database import Database
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.pictures import environments, objects
from imagemill.db.states import ImageState
from imagemill.db.tables import Environment, Object
from tests.helpers.mill import Mill, sha, spec, stored


def object_count(mill: Mill) -> int:
    with mill.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Object)) or 0


def test_completed_images_are_done_with_their_object(mill: Mill) -> None:
    job = mill.load("job", ["a", "b", "c"])
    shift = mill.shift()
    held = mill.claim(shift)
    mill.begin(shift, [image.id for image in held])
    assert mill.complete(shift, held[:2]) == 2
    assert mill.complete(shift, held[:2]) == 0
    first = mill.images(job)[0]
    assert (first.state, first.shift_id, first.begun_at) == (ImageState.DONE, None, None)
    with mill.database.reading() as session:
        found = session.get_one(Object, first.object_id)
        assert found.sha256 == stored(held[0].request_key).sha256
        assert found.environment_id == mill.environment_id
    assert mill.events(first.id) == ["done"]
    assert (mill.counts(job).done, mill.counts(job).leased) == (2, 1)


def test_one_file_serves_every_image_that_asks_for_it(mill: Mill) -> None:
    first = mill.load("first", ["same", "same", "other"])
    second = mill.load("second", ["same"])
    paused = mill.load("paused", ["same"])
    mill.pause(paused)
    shift = mill.shift()
    held = mill.claim(shift, limit=1)
    assert mill.complete(shift, held) == 4
    assert object_count(mill) == 1
    assert [mill.counts(job).done for job in (first, second, paused)] == [2, 1, 1]


def test_images_of_a_loading_job_and_another_shift_are_left_alone(mill: Mill) -> None:
    mill.load("first", ["same"])
    second = mill.load("second", ["same"])
    loading = mill.load("loading", ["same"], opened=False)
    mine, other = mill.shift(), mill.shift()
    held = mill.claim(mine, limit=1)
    theirs = mill.claim(other, limit=1)
    assert theirs[0].job_id == second
    assert mill.complete(mine, held) == 1
    assert mill.counts(loading).ready == 1
    assert mill.image(theirs[0].id).shift_id == other
    assert mill.complete(other, theirs, content="other bytes") == 1
    assert object_count(mill) == 1
    with mill.database.reading() as session:
        assert session.scalars(select(Object.sha256)).one() == stored(held[0].request_key).sha256


def test_a_cancelled_jobs_straggler_is_not_made_done(mill: Mill) -> None:
    keeps = mill.load("keeps", ["same"])
    gone = mill.load("gone", ["same", "more"])
    shift = mill.shift()
    held = mill.claim(shift, limit=1)
    assert held[0].job_id == keeps
    mill.cancel(gone)
    assert mill.complete(shift, held) == 1
    assert mill.counts(gone).cancelled == 2


def test_a_leased_image_of_a_cancelled_job_may_still_be_done(mill: Mill) -> None:
    job = mill.load("job", ["a"])
    shift = mill.shift()
    held = mill.claim(shift)
    mill.cancel(job)
    assert mill.complete(shift, held) == 1
    assert mill.events(held[0].id) == ["done"]


def test_what_is_known_already_needs_no_rendering(mill: Mill) -> None:
    mill.load("first", ["same"])
    loading = mill.load("second", ["same", "new"], opened=False)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    mill.database.run(lambda session: lifecycle.open_job(session, loading))
    held = mill.claim(shift)
    keys = [image.request_key for image in held]
    assert mill.finish_known(shift, keys) == 1
    assert mill.finish_known(shift, keys) == 0
    assert mill.finish_known(shift, []) == 0
    assert (mill.counts(loading).done, mill.counts(loading).leased) == (1, 1)


def test_a_new_job_is_done_at_once_where_objects_exist(mill: Mill) -> None:
    mill.load("first", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    second = mill.load("second", ["a", "b", "c"])
    assert (mill.counts(second).done, mill.counts(second).ready) == (2, 1)
    third = mill.load("third", ["a"])
    assert mill.finish_jobs() == 2
    assert mill.job(third).state == "finished"


def test_thousands_of_requests_can_be_looked_up(mill: Mill) -> None:
    mill.load("first", ["a"])
    shift = mill.shift()
    held = mill.claim(shift)
    mill.complete(shift, held)
    keys = [*(sha(str(n)) for n in range(70_000)), held[0].request_key]
    with mill.database.reading() as session:
        assert list(objects.find_objects(session, keys)) == [held[0].request_key]
        assert objects.find_objects(session, []) == {}


def test_nothing_stored_is_nothing_done(mill: Mill) -> None:
    assert mill.complete(mill.shift(), []) == 0


def test_an_environment_is_recorded_once(mill: Mill) -> None:
    def record(session):
        return environments.environment_id(
            session, fingerprint=sha("gpu"), document={"torch": "2.13"}
        )

    assert mill.database.run(record) == mill.database.run(record) != mill.environment_id
    with mill.database.reading() as session:
        found = session.scalars(select(Environment).where(Environment.fingerprint == sha("gpu")))
        assert found.one().document == {"torch": "2.13"}


@pytest.fixture
def two_mills(postgres_database: Database) -> tuple[Mill, Mill]:
    return Mill(postgres_database), Mill(Database(_url(postgres_database)))


def _url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def test_two_shifts_record_overlapping_requests_without_deadlock(two_mills) -> None:
    """Each holds half of every request, and hands its files over in another order."""
    from concurrent.futures import ThreadPoolExecutor

    first, second = two_mills
    requests = [spec(f"p{n}") for n in range(40)]
    loaded = [first.load(f"job {n}", requests) for n in range(4)]
    mine, other = first.shift(), second.shift()
    held = {mine: [], other: []}
    for _ in range(20):
        held[mine] += first.claim(mine, limit=2)
        held[other] += second.claim(other, limit=2)
    log: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, 40, 8):
            a = held[mine][start : start + 8]
            b = held[other][start : start + 8][::-1]
            log += [
                future.result(400)
                for future in (
                    pool.submit(first.complete, mine, a),
                    pool.submit(second.complete, other, b, content="again"),
                )
            ]
    assert sum(first.counts(job).done for job in loaded) == sum(log)
    first.give_back(mine)
    second.give_back(other)
    assert first.audit() == []
    second.database.close()

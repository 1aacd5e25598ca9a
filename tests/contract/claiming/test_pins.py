"""Workers that an operator pins to a job or a model, on both databases."""

import pytest
from sqlalchemy import update

from imagemill.db.clock import seconds_from_now
from imagemill.db.errors import UsageError
from imagemill.db.queries.fleet.workers import list_fleet
from imagemill.db.queries.jobs import removals
from imagemill.db.queries.work import pins, shifts
from imagemill.db.tables import Worker
from tests.helpers.mill import DIGEST, Mill, spec

OTHER = "b" * 64


def pin(mill: Mill, name: str, target: str) -> list[str]:
    return mill.database.run(lambda s: pins.pin(s, name, pins.find_target(s, target)))


def unpin(mill: Mill, name: str) -> list[str]:
    return mill.database.run(lambda session: pins.unpin(session, name))


def pinned(mill: Mill) -> dict[str, int | str | None]:
    with mill.database.reading() as session:
        fleet = list_fleet(session)
    return {each.name: each.pinned_job_id or each.pinned_model for each in fleet}


def test_a_pinned_worker_takes_its_jobs_images_alone(mill: Mill) -> None:
    first = mill.load("first", ["a", "b"], priority=9)
    mine = mill.load("mine", ["c", spec("d", digest=OTHER)])
    assert pin(mill, "w@host", "mine") == ["w@host"]
    shift = mill.shift()
    assert [i.job_id for i in mill.claim(shift, group_id=mill.group_of(DIGEST))] == [mine]
    choice = mill.choose(worker_id=mill.worker_id, avoided=[mill.group_of(DIGEST)])
    assert choice is not None
    assert choice.id == mill.group_of(OTHER)
    mill.claim(shift, group_id=mill.group_of(OTHER))
    assert mill.choose(worker_id=mill.worker_id) is None, "nothing is left of its job"
    assert mill.choose(worker_id=mill.worker("x@host")) is not None
    assert unpin(mill, "w@host") == ["w@host"]
    assert mill.choose(worker_id=mill.worker_id) is not None
    assert {i.job_id for i in mill.claim(shift)} == {first}


def test_a_pin_takes_effect_at_the_next_claim_of_the_same_shift(mill: Mill) -> None:
    mill.load("first", [f"p{n}" for n in range(8)])
    shift = mill.shift()
    assert len(mill.claim(shift, limit=2)) == 2
    mill.load("mine", [spec("d", digest=OTHER)])
    pin(mill, "host", "mine")
    assert mill.claim(shift, limit=2, group_id=mill.group_of(DIGEST)) == []


def test_a_worker_pinned_to_a_model_takes_it_from_any_job(mill: Mill) -> None:
    jobs = [mill.load(n, [spec(n), spec(n, digest=OTHER)]) for n in ("one", "two")]
    pin(mill, "w@host", f"m-{OTHER[:4]}")
    choice = mill.choose(worker_id=mill.worker_id, loaded=[DIGEST])
    assert choice is not None
    shift = mill.shift()
    assert mill.claim(shift, group_id=mill.group_of(DIGEST)) == []
    assert {image.job_id for image in mill.claim(shift, group_id=choice.id)} == set(jobs)


def test_what_is_no_job_and_no_model_or_both_is_refused(mill: Mill) -> None:
    mill.load("m-aaaa", ["a"])
    with pytest.raises(UsageError, match="say job:m-aaaa or model:m-aaaa"):
        pin(mill, "w@host", "m-aaaa")
    for target, kind in (("job:m-aaaa", int), ("model:m-aaaa", str)):
        pin(mill, "w@host", target)
        assert isinstance(pinned(mill)["w@host"], kind)
    for target in ("nobody", "job:nobody", "model:nobody", ""):
        with pytest.raises(UsageError, match="no job"):
            pin(mill, "w@host", target)
    with pytest.raises(UsageError, match="no live worker gone"):
        pin(mill, "gone", "job:m-aaaa")


def test_who_is_not_pinned_can_not_be_unpinned(mill: Mill) -> None:
    with pytest.raises(UsageError, match="is not pinned"):
        unpin(mill, "w@host")


def test_a_process_that_replaces_another_is_pinned_as_its_worker_is(mill: Mill) -> None:
    job = mill.load("job", ["a"])
    first = mill.worker("a@box:1", host="box")
    mill.worker("b@box:2", host="box")
    pin(mill, "a@box", "job")
    pin(mill, "b@box:2", "job")
    mill.database.run(lambda session: shifts.stop_worker(session, first))
    mill.worker("a@box:3", host="box")
    mill.worker("b@box:4", host="box")
    mill.worker("a@other:5", host="other")
    found = pinned(mill)
    assert found["a@box:3"] == job, "its worker was pinned"
    assert found["b@box:4"] is None, "only the other process of its worker was pinned"
    assert found["a@other:5"] is None, "another host's"
    assert unpin(mill, "a") == ["a@box:1", "a@box:3"]
    mill.worker("a@box:6", host="box")
    assert pinned(mill)["a@box:6"] is None


def test_a_worker_that_was_away_for_long_is_not_pinned_any_more(mill: Mill) -> None:
    mill.load("job", ["a"])
    gone = mill.worker("a@box:1", host="box")
    pin(mill, "a@box", "job")
    past = update(Worker).where(Worker.id == gone).values(seen_at=seconds_from_now(-600))
    mill.database.run(lambda session: session.execute(past))
    mill.worker("a@box:2", host="box")
    assert pinned(mill)["a@box:2"] is None


def test_a_job_with_a_pinned_worker_can_be_removed(mill: Mill) -> None:
    job = mill.load("job", ["a"], max_workers=2)
    pin(mill, "w@host", "job")
    mill.cancel(job)
    mill.database.run(lambda session: removals.begin(session, job))
    while mill.database.run(lambda session: removals.remove_some(session, job)):
        pass
    assert pinned(mill)["w@host"] == job
    assert mill.choose(worker_id=mill.worker_id) is None

"""Claims, failures and fences: what a shift may do to images, and when."""

from dataclasses import replace

import pytest
from sqlalchemy import event, text

from imagemill.db.queries.work import claims
from imagemill.db.states import ImageState
from tests.helpers.mill import CRASH, CRASH_ALONE, DIGEST, POLICY, REFUSED, Mill, spec

OTHER = "b" * 64


def prompts(count: int) -> list[str]:
    return [f"prompt {n}" for n in range(count)]


# Choosing ----------------------------------------------------------------------------------


def test_nothing_to_choose_in_an_empty_database(mill: Mill) -> None:
    assert mill.choose() is None


def test_a_group_is_chosen_with_its_model_and_document(mill: Mill) -> None:
    mill.load("job", prompts(1))
    choice = mill.choose()
    assert choice is not None
    assert choice.model_name == f"m-{DIGEST[:4]}"
    assert choice.document == spec("prompt 0").group()


def test_only_open_jobs_are_chosen(mill: Mill) -> None:
    loading = mill.load("loading", prompts(1), opened=False)
    assert mill.choose() is None
    paused = mill.load("paused", ["other"])
    mill.pause(paused)
    assert mill.choose() is None
    mill.resume(paused)
    assert mill.choose() is not None
    mill.cancel(paused)
    assert mill.choose() is None
    shift = mill.shift()
    assert mill.claim(shift, group_id=1) == []
    assert mill.counts(loading).ready == 1


def test_a_route_sees_its_own_jobs_alone(mill: Mill) -> None:
    mill.load("big", prompts(1), route="80gb")
    assert mill.choose() is None
    choice = mill.choose(route="80gb")
    assert choice is not None
    shift = mill.shift()
    assert mill.claim(shift, group_id=choice.id) == []
    assert len(mill.claim(shift, group_id=choice.id, route="80gb")) == 1


def test_priority_goes_before_the_loaded_model(mill: Mill) -> None:
    mill.load("low", [spec("a")])
    mill.load("high", [spec("a", digest=OTHER)], priority=5)
    choice = mill.choose(loaded=[DIGEST])
    assert choice is not None
    assert choice.id == mill.group_of(OTHER)


def test_the_loaded_model_goes_first_among_equals(mill: Mill) -> None:
    mill.load("first", [spec("a")])
    mill.load("second", [spec("a", digest=OTHER)])
    for digest in (DIGEST, OTHER):
        choice = mill.choose(loaded=[digest])
        assert choice is not None
        assert choice.id == mill.group_of(digest)


def test_busy_groups_are_left_out(mill: Mill) -> None:
    mill.load("job", [spec("a"), spec("a", digest=OTHER)])
    first = mill.choose()
    assert first is not None
    second = mill.choose(avoided=[first.id])
    assert second is not None
    assert {first.id, second.id} == {mill.group_of(DIGEST), mill.group_of(OTHER)}
    assert mill.choose(avoided=[first.id, second.id]) is None


def test_the_job_with_the_fewest_images_in_work_is_next(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.expovariate", lambda _: 0.0)
    mill.load("first", [spec(p) for p in prompts(20)])
    mill.load("second", [spec(p, digest=OTHER) for p in prompts(20)])
    shift = mill.shift()
    taken = []
    for _ in range(4):
        choice = mill.choose()
        assert choice is not None
        taken.append(choice.id)
        mill.claim(shift, group_id=choice.id, limit=4)
    assert taken[:2] == [mill.group_of(DIGEST), mill.group_of(OTHER)]
    assert sorted(taken) == sorted([mill.group_of(DIGEST), mill.group_of(OTHER)] * 2)


# Claiming ----------------------------------------------------------------------------------


def test_a_claim_leases_the_oldest_images_with_all_they_ask_for(mill: Mill) -> None:
    job = mill.load("job", [spec(p) for p in prompts(10)])
    shift = mill.shift()
    claimed = mill.claim(shift, limit=4)
    assert [image.spec for image in claimed] == [spec(p) for p in prompts(4)]
    assert [image.request_key for image in claimed] == [spec(p).request_key() for p in prompts(4)]
    assert not any(image.solo for image in claimed)
    assert isinstance(claimed[0].spec.guidance_scale, float)
    for image in mill.images(job)[:4]:
        assert (image.state, image.shift_id, image.begun_at) == (ImageState.LEASED, shift, None)
    assert (mill.counts(job).leased, mill.counts(job).ready) == (4, 6)


def test_a_batch_is_filled_from_several_jobs_by_priority(mill: Mill) -> None:
    low = mill.load("low", ["a", "b"])
    high = mill.load("high", ["c", "d", "e"], priority=1)
    claimed = mill.claim(mill.shift(), limit=4)
    assert [image.job_id for image in sorted(claimed, key=lambda i: i.id)].count(high) == 3
    assert {image.job_id for image in claimed} == {low, high}


@pytest.mark.parametrize("gone", ["unknown", "expired", "ended"])
def test_a_shift_without_a_lease_changes_nothing(mill: Mill, gone: str) -> None:
    job = mill.load("job", prompts(4))
    shift = mill.shift()
    held = mill.claim(shift, limit=2)
    mill.begin(shift, [held[0].id])
    if gone == "unknown":
        shift = 999
    else:
        mill.expire(shift)
    if gone == "ended":
        assert mill.rescue() == 2
    before = [(i.state, i.shift_id, i.begun_at, i.failures) for i in mill.images(job)]
    counts = mill.counts(job)
    assert mill.claim(shift) == []
    assert mill.begin(shift, [image.id for image in held]) == set()
    assert mill.fail(shift, held[0].id, CRASH_ALONE) is None
    assert mill.give_back(shift) == 0
    assert mill.give_back(shift, [held[0].id]) == 0
    assert mill.complete(shift, held) == 0
    assert mill.finish_known(shift, [image.request_key for image in held]) == 0
    assert mill.renew(shift) is None
    assert mill.end(shift) is False
    assert [(i.state, i.shift_id, i.begun_at, i.failures) for i in mill.images(job)] == before
    assert mill.counts(job) == counts
    with mill.database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM objects")) == 0


def test_another_shift_cannot_touch_what_this_one_holds(mill: Mill) -> None:
    job = mill.load("job", prompts(2))
    mine, other = mill.shift(), mill.shift()
    held = mill.claim(mine)
    assert mill.claim(other) == []
    assert mill.begin(other, [image.id for image in held]) == set()
    assert mill.fail(other, held[0].id) is None
    assert mill.give_back(other) == 0
    assert mill.end(other)
    assert all(image.shift_id == mine for image in mill.images(job))


def test_begin_says_which_images_are_still_held(mill: Mill) -> None:
    mill.load("job", prompts(3))
    shift = mill.shift()
    held = [image.id for image in mill.claim(shift)]
    mill.give_back(shift, held[:1])
    assert mill.begin(shift, held) == set(held[1:])
    assert mill.begin(shift, held) == set(held[1:])
    assert mill.image(held[1]).begun_at is not None


def test_giving_back_charges_nothing(mill: Mill) -> None:
    job = mill.load("job", prompts(3))
    shift = mill.shift()
    held = [image.id for image in mill.claim(shift)]
    mill.begin(shift, held)
    assert mill.give_back(shift, held[:1]) == 1
    assert mill.give_back(shift) == 2
    assert mill.give_back(shift) == 0
    for image in mill.images(job):
        assert (image.state, image.failures, image.suspect) == (ImageState.READY, 0, False)
        assert mill.events(image.id) == []
    assert len(mill.claim(shift)) == 3


# Failures ----------------------------------------------------------------------------------


def test_a_failure_among_neighbours_makes_a_suspect_and_charges_nothing(mill: Mill) -> None:
    mill.load("job", prompts(2))
    shift = mill.shift()
    image_id = mill.claim(shift)[0].id
    assert mill.fail(shift, image_id, CRASH) is ImageState.READY
    image = mill.image(image_id)
    assert (image.suspect, image.failures, image.error_code) == (True, 0, "render")
    assert mill.events(image_id) == ["failed"]


def test_suspects_wait_for_the_others_and_come_alone(mill: Mill) -> None:
    job = mill.load("job", prompts(4))
    shift = mill.shift()
    for image in mill.claim(shift, limit=2):
        mill.fail(shift, image.id, CRASH)
    mill.wait_out()
    others = mill.claim(shift)
    assert [image.solo for image in others] == [False, False]
    first, second = mill.claim(shift), mill.claim(shift)
    assert [len(first), len(second)] == [1, 1]
    assert first[0].solo
    assert second[0].solo
    assert mill.claim(shift) == []
    assert mill.counts(job).leased == 4


def test_a_suspect_of_one_job_does_not_wait_for_other_jobs(mill: Mill) -> None:
    important = mill.load("important", ["a"], priority=1)
    mill.load("endless", prompts(50))
    shift = mill.shift()
    [image] = mill.claim(shift, limit=1)
    mill.fail(shift, image.id, CRASH)
    mill.wait_out()
    [again] = mill.claim(shift)
    assert (again.job_id, again.solo) == (important, True)


def test_a_retry_waits_longer_each_time(mill: Mill) -> None:
    mill.policy = replace(POLICY, retry_seconds=500)  # longer than the test may take
    mill.load("job", prompts(1))
    shift = mill.shift()
    waits = []
    for failure in (CRASH, CRASH_ALONE, CRASH_ALONE):
        [image] = mill.claim(shift)
        mill.fail(shift, image.id, failure)
        waits.append(mill.wait_seconds(image.id))
        assert mill.claim(shift) == []
        mill.wait_out()
    assert waits == [pytest.approx(wait, abs=100) for wait in (500, 500, 1000)]


def test_three_failures_alone_are_death_and_say_why(mill: Mill) -> None:
    job = mill.load("job", prompts(1))
    shift = mill.shift()
    states = []
    for failure in (CRASH, CRASH_ALONE, CRASH_ALONE, CRASH_ALONE):
        mill.wait_out()
        [image] = mill.claim(shift)
        states.append(mill.fail(shift, image.id, failure))
    assert states == [ImageState.READY] * 3 + [ImageState.DEAD]
    [dead] = mill.images(job)
    assert (dead.error_code, dead.error_message) == (CRASH.code, CRASH.message)
    assert mill.events(dead.id) == ["failed", "failed", "failed", "dead"]
    assert (mill.counts(job).dead, mill.counts(job).pending) == (1, 0)
    mill.wait_out()
    assert mill.claim(shift) == []


def test_what_a_retry_cannot_mend_is_dead_at_once(mill: Mill) -> None:
    mill.load("job", prompts(1))
    shift = mill.shift()
    [image] = mill.claim(shift)
    assert mill.fail(shift, image.id, REFUSED) is ImageState.DEAD
    assert mill.fail(shift, image.id, REFUSED) is None
    assert mill.events(image.id) == ["dead"]


def test_a_failure_in_a_cancelled_job_is_not_tried_again(mill: Mill) -> None:
    job = mill.load("job", prompts(1))
    shift = mill.shift()
    [image] = mill.claim(shift)
    mill.cancel(job)
    assert mill.fail(shift, image.id, CRASH) is ImageState.CANCELLED
    assert mill.events(image.id) == ["failed", "cancelled"]


def test_every_transition_twice_is_the_same_as_once(mill: Mill) -> None:
    """What `Database.run` does after a commit of unknown outcome."""
    job = mill.load("job", prompts(4))
    shift = mill.shift()
    held = mill.claim(shift, limit=4)
    for _ in range(2):
        mill.fail(shift, held[0].id, CRASH)
        mill.fail(shift, held[1].id, REFUSED)
        mill.complete(shift, held[2:3])
        mill.give_back(shift, [held[3].id])
    assert [mill.events(image.id) for image in held] == [["failed"], ["dead"], ["done"], []]
    assert [i.state for i in mill.images(job)] == ["ready", "dead", "done", "ready"]


def test_the_policy_is_the_callers(mill: Mill) -> None:
    mill.policy = claims.RetryPolicy(max_failures=1, max_losses=1, retry_seconds=0)
    mill.load("job", prompts(1))
    shift = mill.shift()
    [image] = mill.claim(shift)
    mill.fail(shift, image.id, CRASH)
    [again] = mill.claim(shift)
    assert mill.fail(shift, again.id, CRASH_ALONE) is ImageState.DEAD
    assert POLICY.max_failures == 3


def test_no_worker_sends_its_rows_one_by_one(mill: Mill) -> None:
    """Frozen in the middle of that, it would keep its locks: see `imagemill.db.database`."""
    if mill.database.is_sqlite:
        pytest.skip("SQLite has no client that could be frozen apart from it")
    mill.load("job", prompts(9))
    mill.load("other", [spec("p", digest="b" * 64)])
    many: list[str] = []

    def look(cursor, statement, parameters, context):
        many.append(statement)

    event.listen(mill.database.engine, "do_executemany", look)
    shift = mill.shift()
    held = mill.claim(shift, limit=9)
    mill.begin(shift, [image.id for image in held])
    mill.fail(shift, held[0].id, CRASH)
    mill.complete(shift, held[1:4])
    mill.give_back(shift, [image.id for image in held[4:6]])
    mill.expire(shift)
    assert mill.rescue() == 3
    mill.fold()
    assert many == []


# The index ---------------------------------------------------------------------------------


def test_the_claim_reads_the_index_of_ready_images(mill: Mill) -> None:
    mill.load("job", [spec("p", seed=n) for n in range(3000)])
    shift = mill.shift()
    statements = _explained(mill, shift)
    assert any("ix_images_ready" in plan for plan in statements), statements


def _explained(mill: Mill, shift_id: int) -> list[str]:
    """The plans of the statements that a claim runs on `images`."""
    explain = "EXPLAIN QUERY PLAN " if mill.database.is_sqlite else "EXPLAIN "
    if not mill.database.is_sqlite:
        mill.database.run(lambda session: session.execute(text("ANALYZE images")))
    plans: list[str] = []
    with mill.database.writing() as session:
        connection = session.connection()

        @event.listens_for(connection, "before_cursor_execute")
        def look(connection, cursor, statement, parameters, context, many):
            if "chosen" in statement and not statement.startswith("EXPLAIN"):
                rows = connection.exec_driver_sql(explain + statement, parameters)
                plans.append("\n".join(str(row[-1]) for row in rows))

        held = claims.claim(session, shift_id=shift_id, group_id=1, route="default", limit=8)
        assert len(held) == 8
    return plans

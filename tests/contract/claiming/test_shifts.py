"""Leases: their renewal, their end, and the rescue of what a dead shift held."""

import time

from sqlalchemy import select, update

from imagemill.db.database import Database
from imagemill.db.queries.work import claims, shifts
from imagemill.db.queries.work.claims import Claimed
from imagemill.db.queries.work.presence import live_shifts
from imagemill.db.states import ImageState
from imagemill.db.tables import Attempt, Shift, Worker
from tests.helpers.mill import CRASH, POLICY, Mill


def prompts(count: int) -> list[str]:
    return [f"prompt {n}" for n in range(count)]


def test_renewing_moves_the_lease_and_says_nothing_is_wanted(mill: Mill) -> None:
    shift = mill.shift(lease_seconds=5)
    orders = mill.renew(shift, lease_seconds=1000)
    assert orders == shifts.Orders(draining=False, stopped_jobs=frozenset())
    with mill.database.reading() as session:
        found = session.get_one(Shift, shift)
        assert (found.lease_until - found.started_at).total_seconds() > 900


def test_a_heartbeat_brings_drain_pause_and_cancel(mill: Mill) -> None:
    paused = mill.load("paused", ["a"])
    cancelled = mill.load("cancelled", ["b"])
    untouched = mill.load("untouched", ["c"])
    elsewhere = mill.load("elsewhere", ["d"])
    shift = mill.shift()
    held = mill.claim(shift, limit=3)
    assert {image.job_id for image in held} == {paused, cancelled, untouched}
    mill.pause(paused)
    mill.cancel(cancelled)
    mill.pause(elsewhere)
    drain = update(Worker).values(draining=True)
    mill.database.run(lambda session: session.execute(drain))
    assert mill.renew(shift) == shifts.Orders(
        draining=True, stopped_jobs=frozenset({paused, cancelled})
    )
    mill.give_back(shift)
    assert mill.image(held[1].id).state == ImageState.CANCELLED
    orders = mill.renew(shift)
    assert orders is not None
    assert orders.stopped_jobs == frozenset()


def test_an_expired_lease_cannot_be_renewed_even_before_its_rescue(mill: Mill) -> None:
    shift = mill.shift()
    mill.expire(shift)
    assert mill.renew(shift) is None


def test_ending_a_shift_gives_back_what_it_still_holds(mill: Mill) -> None:
    job = mill.load("job", prompts(3))
    shift = mill.shift()
    held = mill.claim(shift)
    mill.begin(shift, [held[0].id])
    assert mill.end(shift)
    assert not mill.end(shift)
    assert (mill.counts(job).ready, mill.counts(job).leased) == (3, 0)
    assert mill.events(held[0].id) == []


def test_a_rescue_charges_only_what_had_begun(mill: Mill) -> None:
    job = mill.load("job", prompts(4))
    shift = mill.shift()
    held = [image.id for image in mill.claim(shift)]
    mill.begin(shift, held[:2])
    assert mill.rescue() == 0
    mill.expire(shift)
    assert mill.rescue() == 4
    assert mill.rescue() == 0
    found = mill.images(job)
    assert [i.state for i in found] == [ImageState.READY] * 4
    assert [i.suspect for i in found] == [True, True, False, False]
    assert [i.failures for i in found] == [0] * 4
    assert [mill.events(i) for i in held] == [["lost"], ["lost"], [], []]
    with mill.database.reading() as session:
        assert not any(session.scalars(select(Attempt.solo)))
        assert session.get_one(Shift, shift).end_reason == "lost"


def test_a_rescue_charges_nothing_that_only_has_to_be_stored(mill: Mill) -> None:
    job = mill.load("job", prompts(2))
    shift, other = mill.shift(), mill.shift()
    rendered, rendering = (image.id for image in mill.claim(shift))
    mill.begin(shift, [rendered, rendering])
    mill.end_rendering(shift, rendered)
    mill.end_rendering(other, rendering)  # another shift's images are not its to speak of
    mill.expire(shift)
    mill.rescue()
    assert [i.suspect for i in mill.images(job)] == [False, True]
    assert mill.events(rendered) == []


def test_an_image_that_kills_its_process_alone_again_and_again_is_dead(mill: Mill) -> None:
    job = mill.load("job", prompts(2))
    for losses in range(1 + POLICY.max_losses):
        shift = mill.shift()
        held = mill.claim(shift)
        victim = held[0].id
        assert mill.events(victim) == ["lost"] * losses
        mill.begin(shift, [victim])
        mill.expire(shift)
        mill.rescue()
        for image in held[1:]:
            other = mill.shift()
            mill.complete(other, mill.claim(other, limit=1))
            assert mill.image(image.id).state == ImageState.DONE
    assert mill.events(victim) == ["lost"] * POLICY.max_losses + ["dead"]
    found = mill.image(victim)
    assert (found.state, found.error_code) == (ImageState.DEAD, "worker_lost")
    assert found.failures == POLICY.max_losses
    assert mill.counts(job).pending == 0


def test_a_rescue_in_a_cancelled_job_cancels(mill: Mill) -> None:
    job = mill.load("job", prompts(2))
    shift = mill.shift()
    held = mill.claim(shift)
    mill.begin(shift, [held[0].id])
    mill.cancel(job)
    mill.expire(shift)
    mill.rescue()
    assert [mill.events(image.id) for image in held] == [["lost", "cancelled"], ["cancelled"]]
    assert mill.counts(job).cancelled == 2


def test_only_shifts_whose_lease_is_over_are_rescued(mill: Mill) -> None:
    mill.load("job", prompts(4))
    dead, live = mill.shift(), mill.shift()
    mill.claim(dead, limit=2)
    kept = mill.claim(live, limit=2)
    mill.expire(dead)
    assert mill.rescue() == 2
    assert mill.begin(live, [image.id for image in kept]) == {image.id for image in kept}
    assert mill.database.run(live_shifts) == 1


def test_failures_before_a_rescue_are_kept(mill: Mill) -> None:
    """A mutant that resets attempts would render a poisonous image for ever."""
    mill.load("job", prompts(1))
    shift = mill.shift()
    [image] = mill.claim(shift)
    mill.fail(shift, image.id, CRASH)
    for failures in (1, 2):
        mill.wait_out()
        shift = mill.shift()
        [image] = mill.claim(shift)
        mill.begin(shift, [image.id])
        mill.expire(shift)
        mill.rescue()
        assert mill.image(image.id).failures == failures


def test_a_worker_that_stops_says_so(mill: Mill) -> None:
    mill.database.run(lambda session: shifts.stop_worker(session, mill.worker_id))
    with mill.database.reading() as session:
        assert session.get_one(Worker, mill.worker_id).stopped_at is not None


def test_a_rescue_skips_a_shift_in_the_middle_of_a_transaction(
    postgres_database: Database,
) -> None:
    """The rescuer does not see an uncommitted claim: ending its shift would lose the images."""
    mill = Mill(postgres_database)
    job = mill.load("job", prompts(3))
    taken: list[Claimed] = []
    while not taken:  # a busy machine may take longer than the lease to claim
        shift = mill.shift(lease_seconds=1)
        with mill.database.writing() as session:
            taken = claims.claim(session, shift_id=shift, group_id=1, route="default", limit=8)
            while mill.database.run(live_shifts):
                time.sleep(0.05)
            assert mill.rescue() == 0
    assert mill.rescue() == 3
    assert mill.counts(job).ready == 3
    assert mill.audit() == []

"""One engine's work on one group: what it claims, holds and lets go of."""

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from imagemill.db.errors import StorageError
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState
from imagemill.worker import metrics
from imagemill.worker.engine import Failed, Rendered
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.mill import spec
from tests.helpers.workshop import FaultyStore
from tests.unit.worker.shifts.bench import Bench


class Roomy(FakeEngine):
    """Has more images under way than a pass has places, as the slot engine may."""

    @property
    def slots(self) -> int:
        return super().slots // 2


def test_a_batch_is_never_more_than_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.mill.load("job", [spec(f"p{n}") for n in range(4)])
    fills: list[float] = []
    monkeypatch.setattr(metrics, "BATCH_FILL", SimpleNamespace(observe=fills.append))
    assert bench.run(engine=Roomy(spec("any").group(), slots=4)).work() == 4
    assert set(fills) == {1.0}


def test_holds_at_most_the_slots_and_a_batch_ahead(bench: Bench) -> None:
    # Of different lengths, so that slots come free one by one.
    job = bench.mill.load("job", [replace(spec(f"p{n}"), steps=3 + n % 5) for n in range(40)])
    most = 0

    def look() -> bool:
        nonlocal most
        # In this order: the recorder's thread goes on, and what it records is no longer leased.
        pending = bench.recorder._pending
        most = max(most, bench.mill.counts(job).leased - pending)
        return False

    run = bench.run(must_stop=look)
    assert run.work() == 40
    assert 4 < most <= 8


def test_stops_between_steps_and_gives_back_what_is_not_finished(bench: Bench) -> None:
    job = bench.mill.load("job", [f"p{n}" for n in range(6)])
    run = bench.run(must_stop=lambda: bench.engine.steps >= 3)
    run.work()
    assert bench.engine.steps == 3
    assert bench.mill.counts(job) == Counts(ready=6)
    assert not bench.engine.busy


def test_followers_are_given_back_with_those_they_follow(bench: Bench) -> None:
    job = bench.mill.load("job", ["same", "same", "other"])
    bench.run(must_stop=lambda: bench.engine.steps >= 1).work()
    assert bench.mill.counts(job) == Counts(ready=3)


def test_an_order_is_carried_out_once(bench: Bench) -> None:
    """A job that was resumed since must not be claimed and let go of for ever."""
    job = bench.mill.load("job", ["a", "b"])
    claims: list[int] = []
    claim = bench.leased_images.claim

    def counted(choice: GroupChoice, *, limit: int):
        claims.append(limit)
        found = claim(choice, limit=limit)
        if len(claims) == 1:
            bench.order(job)  # the heartbeat's answer is from before the job was resumed
        return found

    bench.leased_images.claim = counted
    while bench.run(must_stop=lambda: len(claims) > 50).work():
        pass
    bench.recorder.wait()
    assert bench.mill.counts(job) == Counts(done=2)


def test_followers_of_a_stopped_job_are_let_go_of(bench: Bench) -> None:
    stopped = bench.mill.load("stopped", ["same", "slow same"])
    other = bench.mill.load("other", ["same"])

    def stop() -> bool:
        if bench.engine.steps == 1:
            bench.mill.pause(stopped)
            bench.order(stopped)
        return False

    while bench.run(must_stop=stop).work():
        pass
    bench.recorder.wait()
    assert bench.mill.counts(other) == Counts(done=1)
    # Its twin in the paused job is done with it, or waits: either way nobody holds it.
    assert bench.mill.counts(stopped).leased == 0


def test_images_that_are_not_ours_any_more_are_not_rendered(bench: Bench) -> None:
    job = bench.mill.load("job", ["a", "b"])
    claim = bench.leased_images.claim

    def lose_one(choice: GroupChoice, *, limit: int):
        found = claim(choice, limit=limit)
        if found.images:
            bench.mill.give_back(bench.lease.shift_id, [found.images[0].id])
            bench.mill.pause(job)
        return found

    run = bench.run()
    bench.leased_images.claim = lose_one
    run.work()
    bench.recorder.wait()
    assert bench.mill.counts(job) == Counts(ready=1, done=1)
    assert all(prompts == ["b"] for prompts in bench.engine.passes)


def test_a_suspect_is_rendered_alone_and_the_others_are_not(bench: Bench) -> None:
    # Of different lengths: slots are free beside images that are still being rendered.
    job = bench.mill.load("job", [replace(spec(f"p{n}"), steps=3 + n) for n in range(5)])
    [image] = bench.mill.claim(other := bench.mill.shift(), limit=1)
    bench.mill.fail(other, image.id)
    bench.mill.wait_out()
    bench.run().work()
    bench.recorder.wait()
    assert bench.mill.counts(job) == Counts(done=5)
    assert all(len(p) == 1 for p in bench.engine.passes if image.spec.prompt in p)
    assert max(map(len, bench.engine.passes)) == 4


def test_nothing_waits_to_be_recorded_while_a_suspect_is_rendered(bench: Bench) -> None:
    """It may end the process: what was rendered before it would be charged along with it."""
    pending: list[int] = []

    class Watched(FakeEngine):
        def step(self) -> list[Rendered | Failed]:
            pending.append(bench.recorder._pending)
            return super().step()

    job = bench.mill.load("job", [replace(spec(f"p{n}"), steps=1) for n in range(4)])
    other = bench.mill.shift()
    for image in bench.mill.claim(other):
        bench.mill.fail(other, image.id)
    bench.mill.wait_out()
    slow = bench.recorder._storage = FaultyStore(
        bench.recorder._storage, [lambda: time.sleep(0.1)] * 4
    )
    bench.run(engine=Watched(spec("any").group())).work()
    bench.recorder.wait()
    assert slow.puts == 4
    assert pending == [0, 0, 0, 0]
    assert bench.mill.counts(job) == Counts(done=4)


def test_a_suspect_waits_until_its_forerunners_are_recorded(bench: Bench) -> None:
    pending: list[int] = []

    class Watched(FakeEngine):
        def step(self) -> list[Rendered | Failed]:
            if any(spec.prompt == "suspect" for _, spec in self.taken):
                pending.append(bench.recorder._pending)
            return super().step()

        def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
            self.taken = list(images)
            super().admit(images)

    job = bench.mill.load("job", [replace(spec("suspect"), steps=1), replace(spec("a"), steps=1)])
    [image] = bench.mill.claim(other := bench.mill.shift(), limit=1)
    bench.mill.fail(other, image.id)
    bench.mill.wait_out()
    bench.recorder._storage = FaultyStore(bench.recorder._storage, [lambda: time.sleep(0.3)])
    bench.run(engine=Watched(spec("any").group())).work()
    bench.recorder.wait()
    assert bench.engine.passes == [["a"], ["suspect"]]
    assert pending == [0]
    assert bench.mill.counts(job) == Counts(done=2)


def test_a_suspect_is_recorded_before_anything_follows_it(bench: Bench) -> None:
    """What follows may end the process too: the suspect would be charged for it. And nothing is
    held meanwhile that would have to wait for the lease's end if the suspect ends the process."""
    pending: list[int] = []
    held: list[int] = []

    class Watched(FakeEngine):
        def step(self) -> list[Rendered | Failed]:
            pending.append(bench.recorder._pending)
            held.append(bench.mill.counts(first).leased + bench.mill.counts(second).leased)
            return super().step()

    first = bench.mill.load("first", [replace(spec("suspect"), steps=2)])
    [image] = bench.mill.claim(other := bench.mill.shift())
    bench.mill.fail(other, image.id)
    bench.mill.wait_out()
    second = bench.mill.load("second", [replace(spec("next"), steps=1)])
    bench.recorder._storage = FaultyStore(bench.recorder._storage, [lambda: time.sleep(0.1)])
    bench.run(engine=Watched(spec("any").group())).work()
    bench.recorder.wait()
    assert bench.engine.passes == [["suspect"], ["suspect"], ["next"]]
    assert pending == [0, 0, 0]
    assert held == [1, 1, 1]
    assert (bench.mill.counts(first).done, bench.mill.counts(second).done) == (1, 1)


def test_a_final_error_of_a_whole_pass_makes_suspects_only(bench: Bench) -> None:
    """With neighbours nobody knows whose fault it was."""

    class Raises(FakeEngine):
        def step(self) -> list[Rendered | Failed]:
            from imagemill.db.errors import InputImageError

            raise InputImageError("which image?")

    job = bench.mill.load("job", ["a", "b"])
    bench.run(engine=Raises(spec("any").group())).work()
    assert {image.state for image in bench.mill.images(job)} == {ImageState.READY}
    assert all(image.suspect for image in bench.mill.images(job))


def test_an_engine_that_raises_on_admission_charges_the_images(bench: Bench) -> None:
    class Raises(FakeEngine):
        def admit(self, images: object) -> None:
            raise ZeroDivisionError("in the tokenizer")

    job = bench.mill.load("job", ["a", "b"])
    run = bench.run(engine=Raises(spec("any").group()))
    run.work()
    assert run.failed == 2
    assert {image.error_code for image in bench.mill.images(job)} == {"render"}


def test_a_store_that_is_away_is_no_images_fault(bench: Bench) -> None:
    """Init images are fetched when an image is admitted."""

    class Away(FakeEngine):
        def step(self) -> list[Rendered | Failed]:
            [ticket, *_] = self.abandon()
            return [Failed(ticket=ticket, error=StorageError("no answer"))]

    job = bench.mill.load("job", ["a"])
    run = bench.run(engine=Away(spec("any").group()))
    with pytest.raises(StorageError):
        run.work()
    bench.mill.give_back(bench.lease.shift_id)
    assert bench.mill.events(bench.mill.images(job)[0].id) == []

"""One engine's work on one group: what it claims, holds and lets go of."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from imagemill.db.errors import StorageError
from imagemill.db.queries.claims import GroupChoice
from imagemill.db.queries.shifts import Orders
from imagemill.db.queries.tallies import Counts
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import CompositionRow
from imagemill.worker import metrics
from imagemill.worker.engine import Failed, PassFailed, Rendered
from imagemill.worker.engine.recorded import RecordedEngine
from imagemill.worker.shifts.group_run import GroupRun
from imagemill.worker.shifts.lease import Lease
from imagemill.worker.shifts.leased_images import Holdings
from imagemill.worker.shifts.limits import RenderLimits
from imagemill.worker.shifts.recorder import Recorder
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.mill import DIGEST, POLICY, Mill, spec
from tests.helpers.workshop import FaultyStore


class Bench:
    """A shift on the bench: its lease has no thread, so the test gives the orders."""

    def __init__(self, mill: Mill, folder: Path) -> None:
        folder.mkdir()
        self.mill = mill
        self.lease = Lease(
            database=mill.database,
            shift_id=mill.shift(),
            lease_seconds=60,
            heartbeat_seconds=5,
            hang_seconds=60,
        )
        self.holdings = Holdings(
            database=mill.database,
            lease=self.lease,
            route="default",
            policy=POLICY,
            limits=RenderLimits.from_settings(Settings()),
        )
        self.recorder = Recorder(holdings=self.holdings, storage=FolderStorage(folder))

    def run(
        self,
        *,
        engine: FakeEngine | None = None,
        recorded: bool = False,
        must_stop: Callable[[], bool] = lambda: False,
    ) -> "BenchRun":
        group = spec("any").group()
        self.engine = engine or FakeEngine(group)
        choice = GroupChoice(id=self.mill.group_of(DIGEST), model_name="any", document=group)
        run = GroupRun(
            engine=RecordedEngine(self.engine) if recorded else self.engine,
            holdings=self.holdings,
            recorder=self.recorder,
            choice=choice,
        )
        return BenchRun(run, must_stop)

    def order(self, *stopped: int) -> None:
        self.lease._orders = Orders(draining=False, stopped_jobs=frozenset(stopped))


class BenchRun:
    """A run, driven as a shift drives it: one step, then the question whether to stop."""

    def __init__(self, run: GroupRun, must_stop: Callable[[], bool]) -> None:
        self._run = run
        self._must_stop = must_stop

    @property
    def failed(self) -> int:
        return self._run.failed

    def work(self) -> int:
        with self._run as run:
            while not self._must_stop() and run.advance():
                pass
        return run.claimed


@pytest.fixture
def bench(mill: Mill, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(mill, tmp_path / "store")
    with bench.recorder:
        yield bench
        bench.recorder.wait()
    assert mill.audit() == []


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
    claim = bench.holdings.claim

    def counted(choice: GroupChoice, *, limit: int):
        claims.append(limit)
        found = claim(choice, limit=limit)
        if len(claims) == 1:
            bench.order(job)  # the heartbeat's answer is from before the job was resumed
        return found

    bench.holdings.claim = counted
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
    claim = bench.holdings.claim

    def lose_one(choice: GroupChoice, *, limit: int):
        found = claim(choice, limit=limit)
        if found.images:
            bench.mill.give_back(bench.lease.shift_id, [found.images[0].id])
            bench.mill.pause(job)
        return found

    run = bench.run()
    bench.holdings.claim = lose_one
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


# Recorded batches ---------------------------------------------------------------------------


def compositions(mill: Mill) -> list[list[int]]:
    """The images of every recorded batch."""
    with mill.database.reading() as session:
        return sorted(session.scalars(select(CompositionRow.image_ids)))


def test_a_recorded_batch_is_filled_before_it_starts(bench: Bench) -> None:
    """Those who follow others leave no slot empty, nor do those whose picture is there."""
    bench.mill.load("job", ["same", "same", "same", "a", "b", "c", "d", "e"])
    bench.run(recorded=True).work()
    bench.recorder.wait()
    first, second = bench.engine.passes[0], bench.engine.passes[-1]
    assert first == ["same", "a", "b", "c"]
    assert second == ["d", "e"]
    assert all(prompts in (first, second) for prompts in bench.engine.passes)
    assert compositions(bench.mill) == [[1, 4, 5, 6], [7, 8]]


def test_images_that_only_follow_are_not_claimed_without_end(bench: Bench) -> None:
    job = bench.mill.load("job", ["same"] * 40)
    leased = []

    def look() -> bool:
        if bench.engine.steps == 1:
            leased.append(bench.mill.counts(job).leased)
        return False

    bench.run(recorded=True, must_stop=look).work()
    bench.recorder.wait()
    assert bench.mill.counts(job) == Counts(done=40)
    # All slots' worth, and as many as were still free: none of those needed a slot.
    assert leased == [4 + 3]


def test_slots_of_unequal_length_wait_for_each_other_in_a_recorded_batch(bench: Bench) -> None:
    bench.mill.load("job", [replace(spec(f"p{n}"), steps=1 + n % 4) for n in range(12)])
    bench.run(recorded=True).work()
    bench.recorder.wait()
    assert [len(prompts) for prompts in bench.engine.passes] == [4, 3, 2, 1] * 3
    assert compositions(bench.mill) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


class OfTwoKinds(FakeEngine):
    """Its images do not all share passes, as in the slot engine: one that fails names who did."""

    def step(self) -> list[Rendered | Failed]:
        try:
            return super().step()
        except RuntimeError as error:
            boom = [slot.ticket for slot in self._active if slot.spec.prompt.startswith("boom")]
            raise PassFailed(str(error), tickets=boom) from error


def test_a_failed_pass_makes_suspects_only_of_the_images_in_it(bench: Bench) -> None:
    job = bench.mill.load("job", ["boom 1", "boom 2", "a", "b"])
    bench.run(engine=OfTwoKinds(spec("any").group())).work()
    bench.recorder.wait()
    assert bench.mill.counts(job) == Counts(ready=2, done=2)
    assert [image.suspect for image in bench.mill.images(job)] == [True, True, False, False]


def test_a_suspect_of_a_recorded_batch_is_a_batch_of_its_own(bench: Bench) -> None:
    job = bench.mill.load("job", ["boom", "a", "b"])
    while bench.run(recorded=True).work():
        bench.mill.wait_out()
    bench.recorder.wait()
    assert bench.mill.counts(job) == Counts(done=2, dead=1)
    assert compositions(bench.mill) == [[2], [3]]


def test_a_resumed_image_does_not_join_the_batch_that_it_left(bench: Bench) -> None:
    """Its slot goes on without it; what comes of that is nobody's."""
    keeps = bench.mill.load("keeps", [replace(spec("a"), steps=6)])
    paused = bench.mill.load("paused", [replace(spec("b"), steps=6)])
    [left] = bench.mill.images(paused)

    def pause_and_resume() -> bool:
        if bench.engine.steps == 2 and bench.mill.image(left.id).begun_at is not None:
            bench.mill.pause(paused)
            bench.order(paused)
        if bench.engine.steps == 4:
            bench.mill.resume(paused)
        return False

    engine = FakeEngine(spec("any").group())
    while bench.run(engine=engine, recorded=True, must_stop=pause_and_resume).work():
        pass
    bench.recorder.wait()
    assert [bench.mill.counts(job).done for job in (keeps, paused)] == [1, 1]
    assert compositions(bench.mill) == [[1, 2], [2]]
    assert engine.passes == [["a", "b"]] * 6 + [["b"]] * 6

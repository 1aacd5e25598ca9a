"""One engine's work on one group in recorded batches."""

from dataclasses import replace

from sqlalchemy import select

from imagemill.db.queries.tallies import Counts
from imagemill.db.tables import CompositionRow
from imagemill.worker.engine import Failed, PassFailed, Rendered
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.mill import Mill, spec
from tests.unit.worker.shifts.bench import Bench


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

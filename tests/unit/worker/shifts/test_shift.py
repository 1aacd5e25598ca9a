"""A shift's whole work, with a fake engine: what is done, what dies, what is given back."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from imagemill.db.errors import DatabaseError, ObjectConflict, StorageDenied, StorageError
from imagemill.db.queries.tallies import Counts
from imagemill.db.states import ImageState, Outcome
from imagemill.db.tables import Object, Shift
from imagemill.worker.shifts.lease import Lease
from tests.helpers.fake_engine import FakeShelf
from tests.helpers.mill import Mill, spec
from tests.helpers.workshop import FaultyStore, Workshop, quick_settings


@pytest.fixture
def workshop(mill: Mill, tmp_path: Path) -> Iterator[Workshop]:
    """A worker with a database and a folder. Whatever the test did, no promise is broken."""
    workshop = Workshop(mill, tmp_path / "store")
    yield workshop
    assert mill.audit() == []
    stored = set(workshop.files())
    with mill.database.reading() as session:
        recorded = set(session.scalars(select(Object.object_key)))
    assert recorded <= stored, "an image is done without its file"


def last_shift(mill: Mill) -> Shift:
    with mill.database.reading() as session:
        return session.scalars(select(Shift).order_by(Shift.id.desc()).limit(1)).one()


def after_steps(workshop: Workshop, steps: int) -> bool:
    """True once the engines have made so many denoiser calls."""
    return sum(engine.steps for engine in workshop.shelf.opened) >= steps


def test_renders_everything_and_stores_a_file_for_each(workshop: Workshop) -> None:
    job = workshop.mill.load("job", [f"picture {n}" for n in range(11)])
    report = workshop.shift()
    assert workshop.counts(job) == Counts(done=11)
    assert len(workshop.files()) == 11
    assert report.done == 11
    assert report.reason == "nothing left to do"
    assert last_shift(workshop.mill).ended_at is not None


def test_a_shift_with_nothing_to_do_leaves_no_trace(workshop: Workshop) -> None:
    assert workshop.shift().reason == "nothing left to do"
    with workshop.mill.database.reading() as session:
        assert session.scalars(select(Shift)).all() == []


def test_renders_groups_one_after_another(workshop: Workshop) -> None:
    job = workshop.mill.load(
        "job", [*(spec(f"s {n}") for n in range(3)), *(spec(f"w {n}", width=128) for n in range(3))]
    )
    workshop.shift()
    assert workshop.counts(job) == Counts(done=6)
    assert len(workshop.shelf.opened) == 2


def test_free_slots_are_filled_while_neighbours_render(workshop: Workshop) -> None:
    quick = [spec(f"quick {n}") for n in range(9)]
    workshop.mill.load("job", quick)
    workshop.shift()
    assert max(map(len, workshop.passes)) == 4
    assert sum(map(len, workshop.passes)) == 9 * 20, "an image was rendered twice"


def test_an_image_that_breaks_its_pass_ends_dead_and_takes_no_neighbour(
    workshop: Workshop,
) -> None:
    job = workshop.mill.load("job", ["a", "b", "boom here", "c", "d", "e"])
    report = workshop.shift()
    assert workshop.counts(job) == Counts(done=5, dead=1)
    [dead] = [i for i in workshop.mill.images(job) if i.state == ImageState.DEAD]
    assert dead.prompt == "boom here"
    assert dead.failures == 3
    assert dead.error_code == "render"
    assert "a kernel failed" in (dead.error_message or "")
    assert workshop.mill.events(dead.id) == ["failed", "failed", "failed", "dead"]
    alone = [prompts for prompts in workshop.passes if "boom here" in prompts]
    assert alone[1:] == [["boom here"]] * 3
    assert report.failed >= 4


def test_an_image_that_fails_by_itself_costs_its_neighbours_nothing(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["a", "bad one", "c", "d"])
    workshop.shift()
    assert workshop.counts(job) == Counts(done=3, dead=1)
    for image in workshop.mill.images(job):
        if image.state == ImageState.DONE:
            assert workshop.mill.events(image.id) == ["done"]


def test_an_error_that_no_retry_helps_is_final_at_once(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["a", "final one"])
    workshop.shift()
    [dead] = [i for i in workshop.mill.images(job) if i.state == ImageState.DEAD]
    assert dead.error_code == "input_image"
    assert workshop.mill.events(dead.id) == ["dead"]


def test_nan_is_an_outcome_and_not_a_failure(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["nan please"])
    workshop.shift()
    assert workshop.counts(job) == Counts(done=1)
    with workshop.mill.database.reading() as session:
        assert session.scalars(select(Object.outcome)).all() == [Outcome.NAN]


def test_images_of_one_request_are_rendered_once(workshop: Workshop) -> None:
    first = workshop.mill.load("first", ["same"] * 3 + ["other"])
    second = workshop.mill.load("second", ["same"])
    workshop.shift()
    assert workshop.counts(first) == Counts(done=4)
    assert workshop.counts(second) == Counts(done=1)
    assert len(workshop.files()) == 2
    assert sum("same" in prompts for prompts in workshop.passes) == 20


def test_twins_of_an_image_that_fails_are_not_kept_waiting(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["bad twin", "bad twin", "fine"])
    workshop.shift()
    assert workshop.counts(job) == Counts(done=1, dead=2)


def test_what_was_rendered_before_is_not_rendered_again(workshop: Workshop) -> None:
    workshop.mill.load("first", ["a", "b"])
    workshop.shift()
    rendered = len(workshop.passes)
    job = workshop.mill.load("second", ["a", "b"])
    workshop.shift()
    assert workshop.counts(job) == Counts(done=2)
    assert len(workshop.passes) == rendered


def test_a_lost_lease_records_nothing_and_stops(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases: list[Lease] = []

    class Watched(Lease):
        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            leases.append(self)

    monkeypatch.setattr("imagemill.worker.shifts.leased_shift.Lease", Watched)
    job = workshop.mill.load("job", ["a", "b"])

    def freeze() -> None:
        # As after SIGSTOP: another worker's rescuer has taken the images meanwhile.
        workshop.mill.expire(last_shift(workshop.mill).id)
        workshop.mill.rescue()
        while not leases[0].lost:  # until the heartbeat has told
            time.sleep(0.01)

    workshop.storage = FaultyStore(workshop.folder, [freeze])
    report = workshop.shift()
    assert report.done == 0
    assert report.reason == "lease lost"
    assert workshop.counts(job) == Counts(ready=2)
    workshop.storage = workshop.folder
    workshop.shift()
    assert workshop.counts(job) == Counts(done=2)
    assert len(workshop.files()) == 2, "the late file is the same file"


def test_a_hung_step_ends_the_lease_and_then_the_process(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    class Watched(Lease):
        def __init__(self, **values: Any) -> None:
            super().__init__(**values, end_process=lambda code: ended.set())

    monkeypatch.setattr("imagemill.worker.shifts.leased_shift.Lease", Watched)
    workshop.settings = quick_settings(lease_seconds=2, hang_seconds=0.2)
    job = workshop.mill.load("job", ["hang now"])
    threading.Thread(target=workshop.shift, daemon=True).start()
    assert ended.wait(240), "the process would have lived on"
    assert workshop.mill.rescue() == 1
    [image] = workshop.mill.images(job)
    assert image.state == ImageState.READY
    assert image.suspect


def test_waits_for_a_store_that_is_down_and_goes_on(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["a", "b", "c"])
    workshop.storage = FaultyStore(workshop.folder, [StorageError("down")] * 4)
    workshop.shift()
    assert workshop.counts(job) == Counts(done=3)
    assert {tuple(workshop.mill.events(i.id)) for i in workshop.mill.images(job)} == {("done",)}


def test_a_store_that_refuses_ends_the_shift_and_charges_nobody(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["a", "b", "c"])
    workshop.storage = FaultyStore(workshop.folder, [StorageDenied("wrong key")] * 99)
    with pytest.raises(StorageDenied):
        workshop.shift()
    assert workshop.counts(job) == Counts(ready=3)
    assert all(workshop.mill.events(i.id) == [] for i in workshop.mill.images(job))
    assert not any(i.suspect for i in workshop.mill.images(job))
    assert last_shift(workshop.mill).end_reason == "storage_denied: wrong key"


def test_a_conflict_in_the_store_is_that_images_own(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["a", "b"])
    workshop.storage = FaultyStore(workshop.folder, [ObjectConflict("damaged there")])
    workshop.shift()
    assert workshop.counts(job) == Counts(done=1, dead=1)


def test_a_picture_that_its_format_cannot_hold_ends_dead(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("too wide for this format")

    monkeypatch.setattr("imagemill.worker.shifts.recorder.encode", refuse)
    job = workshop.mill.load("job", ["a"])
    while workshop.counts(job).pending:
        workshop.shift()
    [image] = workshop.mill.images(job)
    assert workshop.mill.events(image.id) == ["failed", "failed", "failed", "dead"]
    assert "too wide" in (image.error_message or "")


def test_a_drain_gives_back_at_a_step_boundary_and_charges_nobody(workshop: Workshop) -> None:
    job = workshop.mill.load("job", [f"slow {n}" for n in range(4)])
    workshop.draining = lambda: after_steps(workshop, 2)
    report = workshop.shift()
    assert report.reason == "draining"
    assert report.given_back + workshop.counts(job).ready >= 4
    assert workshop.counts(job) == Counts(ready=4)
    assert not any(image.suspect for image in workshop.mill.images(job))
    assert len(workshop.passes) == 2


def test_a_drain_with_the_store_down_gives_back_within_its_time(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["a"])
    store = FaultyStore(workshop.folder, [StorageError("down")] * 999)
    workshop.storage = store
    workshop.settings = quick_settings(drain_seconds=0.5)
    workshop.draining = lambda: store.puts > 0
    assert workshop.shift().reason == "draining"
    assert workshop.counts(job) == Counts(ready=1)
    assert not workshop.mill.images(job)[0].suspect


def test_a_drain_with_a_hanging_request_gives_back_within_its_time(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["a"])
    let_go = threading.Event()
    store = FaultyStore(workshop.folder, [lambda: bool(let_go.wait(240))])
    workshop.storage = store
    workshop.settings = quick_settings(drain_seconds=0.5)
    workshop.draining = lambda: store.puts > 0
    try:
        workshop.shift()
        assert workshop.counts(job) == Counts(ready=1)
    finally:
        let_go.set()


def test_an_operators_order_drains_as_well(workshop: Workshop) -> None:
    from sqlalchemy import update

    from imagemill.db.tables import Worker

    workshop.mill.load("job", [f"slow {n}" for n in range(4)])
    workshop.mill.database.run(
        lambda session: session.execute(update(Worker).values(draining=True))
    )
    assert workshop.shift().reason == "draining"


@pytest.mark.parametrize("stop", ["pause", "cancel"])
def test_a_stopped_job_is_let_go_of_between_steps(workshop: Workshop, stop: str) -> None:
    stopped = workshop.mill.load("stopped", [f"slow {n}" for n in range(2)])
    other = workshop.mill.load("other", ["x", "y"])
    done = threading.Event()

    def stop_soon() -> bool:
        if after_steps(workshop, 1) and not done.is_set():
            done.set()
            getattr(workshop.mill, stop)(stopped)
        return False

    workshop.draining = stop_soon
    workshop.shift()
    assert workshop.counts(other) == Counts(done=2)
    left = Counts(ready=2) if stop == "pause" else Counts(cancelled=2)
    assert workshop.counts(stopped) == left
    assert all("done" not in workshop.mill.events(i.id) for i in workshop.mill.images(stopped))


def test_a_model_that_cannot_be_loaded_kills_few_and_leaves_the_rest(workshop: Workshop) -> None:
    job = workshop.mill.load("job", [f"p {n}" for n in range(20)])
    fine = workshop.mill.load("fine", [spec("q", digest="b" * 64)])
    workshop.shelf = FakeShelf(broken=["m-aaaa"])
    workshop.shift()
    workshop.shift()
    assert workshop.counts(job) == Counts(ready=12, dead=8)
    assert workshop.counts(fine) == Counts(done=1)
    dead = [i for i in workshop.mill.images(job) if i.state == ImageState.DEAD]
    assert {i.error_code for i in dead} == {"model"}


def test_weights_that_make_the_loader_crash_are_a_reason_too(workshop: Workshop) -> None:
    class Damaged(FakeShelf):
        def engine(self, choice):
            raise OSError("header too large")

    job = workshop.mill.load("job", ["a"])
    workshop.shelf = Damaged()
    workshop.shift()
    [image] = workshop.mill.images(job)
    assert image.state == ImageState.DEAD
    assert "header too large" in (image.error_message or "")


def test_out_of_memory_shrinks_the_batch_and_charges_nobody(workshop: Workshop) -> None:
    job = workshop.mill.load("job", ["oom a", "b", "c"])
    workshop.shift()
    assert workshop.counts(job) == Counts(done=3)
    assert [engine.slots for engine in workshop.shelf.opened] == [4, 2, 1]
    assert all(workshop.mill.events(i.id) == ["done"] for i in workshop.mill.images(job))


def test_out_of_memory_with_one_slot_is_a_reason_to_die_of(workshop: Workshop) -> None:
    class Tiny(FakeShelf):
        def shrink(self, choice):
            super().shrink(choice)
            return False

    job = workshop.mill.load("job", ["oom a"])
    workshop.shelf = Tiny()
    workshop.shift()
    [image] = workshop.mill.images(job)
    assert (image.state, image.error_code) == (ImageState.DEAD, "out_of_memory")


def test_what_does_not_fit_into_the_card_is_left_to_others_uncharged(workshop: Workshop) -> None:
    huge = spec("huge a", width=128)
    job = workshop.mill.load("job", [huge, "b"])
    workshop.shelf = FakeShelf(slots=1, card=True)
    for _ in range(2):
        workshop.shift()
        assert workshop.counts(job) == Counts(ready=1, done=1)
    assert workshop.shelf.refused == [huge.group_key()], "it is not tried again at once"
    [left] = [each for each in workshop.mill.images(job) if each.state == ImageState.READY]
    assert (left.failures, left.suspect, left.error_code) == (0, False, None)


def test_the_time_of_a_shift_ends_it(workshop: Workshop) -> None:
    job = workshop.mill.load("job", [f"slow {n}" for n in range(9)])
    workshop.settings = quick_settings(shift_seconds=0.1)
    assert workshop.shift().reason == "time is over"
    assert workshop.counts(job).leased == 0


def test_a_database_that_stays_away_ends_the_shift(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = workshop.mill.load("job", ["a"])

    def away(*_: object, **__: object) -> None:
        raise DatabaseError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("imagemill.worker.shifts.leased_images.objects.complete", away)
        with pytest.raises(DatabaseError):
            workshop.shift()
    assert workshop.counts(job) == Counts(ready=1)
    workshop.shift()
    assert workshop.counts(job) == Counts(done=1)
    assert len(workshop.files()) == 1, "the file of the first try is adopted"

"""Removing jobs: what goes, what stays, also when it is killed and when others want the same."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from imagemill.db.compositions import Composition
from imagemill.db.errors import UnknownJob, UsageError
from imagemill.db.queries import labels
from imagemill.db.queries.jobs import job_rows, lifecycle, removals, removed_jobs
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.jobs.new_images import NewImages
from imagemill.db.queries.pictures.originals import find_originals
from imagemill.db.settings import Settings
from imagemill.db.shared_specs import Request
from imagemill.db.states import ImageState, JobState
from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import (
    Attempt,
    Image,
    Job,
    JobLabel,
    JobNote,
    Object,
    RemovedJob,
    RemovedObject,
    Row,
    Tally,
)
from imagemill.scheduler_jobs.removal import delete_files, remove_jobs
from imagemill.scheduler_jobs.store_check import sweep
from tests.contract.pictures.test_upkeep import fill, keys
from tests.helpers.mill import Mill, spec

TABLES = (Job, Row, Image, Object, Attempt, Tally, JobLabel, JobNote, RemovedObject)


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    store = FolderStorage(tmp_path / "store")
    store.probe()
    return store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(storage_url=str(tmp_path / "store"))


def plan(mill: Mill, *job_ids: int) -> list[removals.Removal]:
    with mill.database.reading() as session:
        return removals.plan(session, [session.get_one(Job, job_id) for job_id in job_ids])


def rows(mill: Mill) -> dict[str, int]:
    """How many rows every table has that a job has rows in."""
    with mill.database.reading() as session:
        return {
            table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0
            for table in TABLES
        }


def sound(mill: Mill, storage: Storage) -> None:
    """No promise is broken, and every done image has its file."""
    assert mill.audit() == []
    with mill.database.reading() as session:
        done = select(Object.object_key).join(Image, Image.object_id == Object.id)
        assert set(session.scalars(done)) <= set(keys(storage))


def test_what_others_use_stays(mill: Mill, storage: Storage, settings: Settings) -> None:
    storage.probe()
    first = fill(mill, storage, "first", ["a", "b"])
    second = fill(mill, storage, "second", ["b", "c"])
    [alone] = plan(mill, first)
    assert (alone.state, alone.images, alone.objects, alone.shared_objects) == (
        *("finished", 2, 1),
        1,
    )
    assert [(each.objects, each.shared_objects) for each in plan(mill, first, second)] == [
        (1, 1),
        (2, 0),
    ]
    assert len(keys(storage)) == 3, "planning removes nothing"
    done = remove_jobs(mill.database, storage, settings, [first])
    assert (done.jobs, done.files, done.size_bytes) == (1, 1, alone.size_bytes)
    sound(mill, storage)
    assert {image.state for image in mill.images(second)} == {ImageState.DONE}
    assert len(keys(storage)) == 2
    remove_jobs(mill.database, storage, settings, [second])
    assert set(rows(mill).values()) == {0}
    assert keys(storage) == []


def test_what_was_removed_is_recorded(mill: Mill, folder, settings) -> None:
    job = fill(mill, folder, "job", ["a", "b"])
    mill.database.run(lambda session: labels.set_labels(session, job, {"team": "a"}))
    mill.database.run(lambda session: labels.set_note(session, job, "for the release"))
    remove_jobs(mill.database, folder, settings, [job])
    with mill.database.reading() as session:
        record = session.scalars(select(RemovedJob)).one()
        assert (record.job_id, record.images, record.objects) == (job, 2, 2)
        assert record.document["state"] == "finished"
        assert record.document["labels"] == {"team": "a"}
        assert record.document["note"] == "for the release"
        for reference in (str(job), "job"):
            with pytest.raises(UnknownJob, match=r"job \d+ \(job\) was removed on 20"):
                find_job(session, reference)


@pytest.mark.parametrize("state", ["open", "loading", "paused", "leased"])
def test_a_live_job_is_refused(mill: Mill, folder, settings, state: str) -> None:
    job = mill.load("job", ["a", "b"], opened=state != "loading")
    if state == "paused":
        mill.pause(job)
    if state == "leased":
        mill.claim(mill.shift(), limit=1)
        mill.cancel(job)
    said = "not over" if state == "leased" else "cancel"
    with pytest.raises(UsageError, match=said):
        plan(mill, job)
    with pytest.raises(UsageError, match=said):
        remove_jobs(mill.database, folder, settings, [job])
    assert mill.counts(job).requested == 2


def test_a_finished_job_that_nobody_has_finished_yet_goes(mill: Mill, folder, settings) -> None:
    job = mill.load("job", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    assert mill.job(job).state == JobState.OPEN
    remove_jobs(mill.database, folder, settings, [job])
    assert rows(mill)["jobs"] == 0


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "IMAGES_A_STEP", 1)
    monkeypatch.setattr(removals, "ROWS_A_STEP", 1)
    monkeypatch.setattr("imagemill.scheduler_jobs.removal.FILES_A_STEP", 1)


class Killed(Exception):
    """The process died here."""


class Dying(FolderStorage):
    """A store whose process dies at the nth deletion, before or after the file has gone."""

    def __init__(self, root: Path, deletions: int, *, before: bool) -> None:
        super().__init__(root)
        self._left = deletions
        self._before = before

    def delete(self, key: str) -> None:
        self._left -= 1
        if self._left or not self._before:
            super().delete(key)
        if not self._left:
            raise Killed


@pytest.mark.usefixtures("small_steps")
def test_killed_at_any_step_it_leaves_nothing_half_and_is_finished_later(
    mill: Mill, folder, settings
) -> None:
    prompts = ["a", "b", "c"]
    fill(mill, folder, "other", ["b"])
    for steps in range(1, 20):
        job = fill(mill, folder, f"job {steps}", prompts)
        answers: Iterator[bool] = iter([False] * steps + [True] * 100)
        done = remove_jobs(mill.database, folder, settings, [job], stopped=answers.__next__)
        sound(mill, folder)
        with mill.database.reading() as session:
            waiting = set(session.scalars(select(RemovedObject.object_key)))
        strays = {
            item.key
            for item in sweep(mill.database, folder, older_than_seconds=0, delete=False).strays
        }
        assert strays <= waiting, "what is left over is known and found"
        remove_jobs(mill.database, folder, settings, [])
        assert (rows(mill)["jobs"], rows(mill)["images"], len(keys(folder))) == (1, 1, 1)
        if done.jobs and done.files == 2:
            break
    else:
        pytest.fail("it never came to its end")
    assert steps > 8, "it was stopped at steps in between"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("deletion", [1, 2])
@pytest.mark.usefixtures("small_steps")
def test_killed_while_files_go(mill: Mill, settings, tmp_path, deletion, before) -> None:
    job = fill(mill, FolderStorage(tmp_path / "store"), "job", ["a", "b"])
    store = Dying(tmp_path / "store", deletion, before=before)
    with pytest.raises(Killed):
        remove_jobs(mill.database, store, settings, [job])
    again = fill(mill, FolderStorage(tmp_path / "store"), "again", ["a", "b"])
    sound(mill, store)
    remove_jobs(mill.database, store, settings, [])
    sound(mill, store)
    assert mill.counts(again).done == 2


def at_the_same_time(
    first: Callable[[Callable[[], None]], None], second: Callable[[], None]
) -> None:
    """Run `first` until it calls what it is given; then `second` begins, and `first` goes on.

    What they do must come out right whether `second` waits for `first` or not.
    """
    arrived, begun = threading.Event(), threading.Event()

    def meet() -> None:
        arrived.set()
        assert begun.wait(240)
        time.sleep(0.2)  # so that `second` gets as far as it can

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first, meet)
        assert arrived.wait(240)
        other = pool.submit(second)
        begun.set()
        one.result(timeout=400)
        other.result(timeout=400)


def removing(mill: Mill, job: int, meet: Callable[[], None] = lambda: None) -> None:
    """Everything but the files, with `meet` within the transaction that removes the objects."""
    mill.database.run(lambda session: removals.begin(session, job))
    met = False

    def step(session) -> bool:
        nonlocal met
        more = removals.remove_some(session, job)
        if not met:
            met = True
            meet()
        return more

    while mill.database.run(step):
        pass


def submitting(mill: Mill, meet: Callable[[], None] = lambda: None) -> None:
    """A second job that wants the same picture, with `meet` before its chunk is committed."""
    job = mill.create("second")

    def chunk(session) -> None:
        loading = job_rows.lock_loading(session, job)
        new = job_rows.NewRow(number=1, line=1, verbatim="a", extras={}, key_base="id:1")
        row_ids = job_rows.insert_rows(session, loading, [new])
        images = NewImages.of([(0, Request.of(spec("a")))])
        job_rows.insert_images(session, loading, images, row_ids=row_ids)
        loading.rows_loaded = 1
        meet()

    mill.database.run(chunk)
    mill.database.run(lambda session: lifecycle.open_job(session, job))


def second_image(mill: Mill) -> Image:
    with mill.database.reading() as session:
        job = find_job(session, "second")
    return mill.images(job.id)[0]


def test_a_submission_that_reuses_an_object_keeps_it(mill: Mill, folder, settings) -> None:
    job = fill(mill, folder, "first", ["a"])
    mill.load("keeps ids apart", ["z"])
    at_the_same_time(lambda meet: submitting(mill, meet), lambda: removing(mill, job))
    remove_jobs(mill.database, folder, settings, [])
    sound(mill, folder)
    assert second_image(mill).state == ImageState.DONE


def test_a_submission_after_an_object_has_gone_renders_it_again(
    mill: Mill, folder, settings
) -> None:
    job = fill(mill, folder, "first", ["a"])
    at_the_same_time(lambda meet: removing(mill, job, meet), lambda: submitting(mill))
    sound(mill, folder)
    assert second_image(mill).state == ImageState.READY
    remove_jobs(mill.database, folder, settings, [])
    assert len(keys(folder)) == 1, "an image waits that may store the same file: it stays"
    fill(mill, folder, "third", ["a"])
    sound(mill, folder)


def test_a_file_that_a_worker_has_stored_again_stays(mill: Mill, folder, settings) -> None:
    """The worker has stored it, found it there already, and has not recorded it yet."""
    removing(mill, fill(mill, folder, "first", ["a"]))
    second = mill.load("second", ["a"])
    shift = mill.shift()
    held = mill.claim(shift)
    assert delete_files(mill.database, folder) == (0, 0)
    assert len(keys(folder)) == 1
    mill.complete(shift, held)
    assert mill.counts(second).done == 1


def test_a_submission_waits_for_the_file_that_is_being_deleted(mill: Mill, folder) -> None:
    removing(mill, fill(mill, folder, "first", ["a"]))

    def deleting(meet: Callable[[], None]) -> None:
        def step(session) -> None:
            [file] = removed_jobs.take_removed_files(session, 10)
            assert not file.wanted
            meet()
            assert session.scalars(select(Image.id)).all() == [], "nobody came in between"
            folder.delete(file.object_key)

        mill.database.run(step)

    at_the_same_time(deleting, lambda: submitting(mill))
    assert second_image(mill).state == ImageState.READY
    fill(mill, folder, "third", ["a"])
    sound(mill, folder)


def test_ids_are_not_given_again(mill: Mill, folder, settings) -> None:
    first = fill(mill, folder, "first", ["a", "b"])
    last = fill(mill, folder, "last", ["c"])
    newest = max(image.id for image in mill.images(last))
    remove_jobs(mill.database, folder, settings, [last])
    remove_jobs(mill.database, folder, settings, [first])
    again = fill(mill, folder, "last", ["c", "d"])
    assert again > last
    assert min(image.id for image in mill.images(again)) > newest


def test_a_batch_knows_its_requests_while_any_job_has_them(mill: Mill, folder, settings) -> None:
    first = mill.load("first", ["a", "b"])
    shift = mill.shift()
    held = mill.claim(shift)
    together = Composition.of([(image.id, image.spec) for image in held], slots=4)
    mill.complete(shift, held, composition=together)
    second = mill.load("second", ["a", "b"])
    third = mill.load("third", ["a"])
    assert [each.neighbours for each in plan(mill, first, second)] == [2, 1]
    remove_jobs(mill.database, folder, settings, [first])
    [image, _] = mill.images(second)
    with mill.database.reading() as session:
        [original] = find_originals(session, [image.id])
    assert [member.spec for member in original.together] == [each.spec for each in held]
    assert mill.counts(third).done == 1


def ended(mill: Mill, **which) -> list[int]:
    with mill.database.reading() as session:
        return [job.id for job in removals.ended_jobs(session, **which)]


def test_jobs_are_chosen_by_age_and_labels(mill: Mill, folder) -> None:
    old = fill(mill, folder, "old", ["a"])
    kept = fill(mill, folder, "kept", ["b"])
    mill.database.run(lambda session: labels.set_labels(session, old, {"team": "a"}))
    mill.database.run(lambda session: labels.set_labels(session, kept, {"team": "a", "keep": ""}))
    mill.load("live", ["c"])
    late = timedelta(hours=-1)
    assert ended(mill, older_than=late) == [old, kept]
    assert ended(mill, older_than=timedelta(hours=1)) == []
    assert ended(mill, older_than=late, labels=[("team", "a")], keep=[("keep", None)]) == [old]
    assert ended(mill, older_than=late, labels=[("team", "b")]) == []
    assert ended(mill, older_than=late, keep=[("team", "x"), ("keep", "")]) == [old]

"""The recorder: first the file, then the row; what fails, waits and is given up."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from imagemill.db.errors import DatabaseError, StorageDenied, StorageError
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work.claims import Claimed
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import Object
from imagemill.worker.engine import Rendered
from imagemill.worker.files.encoder import read_record
from imagemill.worker.shifts import recorder as recording
from imagemill.worker.shifts.lease import Lease
from imagemill.worker.shifts.leased_images import LeasedImages
from imagemill.worker.shifts.limits import RenderLimits
from imagemill.worker.shifts.recorder import Recorder
from tests.helpers.fake_engine import FakeEnvironment, pixels_of
from tests.helpers.mill import POLICY, Mill
from tests.helpers.workshop import FaultyStore

ENVIRONMENT = FakeEnvironment(fields={"device": "fake"})


@pytest.fixture
def store(tmp_path: Path) -> FolderStorage:
    (tmp_path / "store").mkdir()
    return FolderStorage(tmp_path / "store")


@pytest.fixture
def lease(mill: Mill) -> Iterator[Lease]:
    with Lease(
        database=mill.database,
        shift_id=mill.shift(),
        lease_seconds=60,
        heartbeat_seconds=5,
        hang_seconds=60,
    ) as lease:
        yield lease
    assert mill.audit() == []


def recorder_of(mill: Mill, lease: Lease, storage: Storage) -> Recorder:
    leased_images = LeasedImages(
        database=mill.database,
        lease=lease,
        route="default",
        policy=POLICY,
        limits=RenderLimits.from_settings(Settings()),
    )
    return Recorder(leased_images=leased_images, storage=storage)


def claimed(mill: Mill, lease: Lease) -> list[Claimed]:
    images = mill.claim(lease.shift_id)
    mill.begin(lease.shift_id, [image.id for image in images])
    return images


def picture_of(image: Claimed) -> Rendered:
    pixels = pixels_of(image.spec)
    return Rendered(ticket=image.id, pixels=pixels, outcome=Outcome.OK, cut=None, seconds=0.1)


def test_the_file_is_in_the_store_before_the_image_is_done(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    job = mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    seen: list[Counts] = []
    faulty = FaultyStore(store, [lambda: seen.append(mill.counts(job))])
    with recorder_of(mill, lease, faulty) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        assert recorder.wait()
    assert seen == [Counts(leased=1)]
    assert mill.counts(job) == Counts(done=1)
    assert recorder.done == 1


def test_an_image_that_waits_for_the_store_is_not_charged_for_its_worker(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    job = mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    begun: list[bool] = []

    def look() -> None:
        begun.append(mill.image(image.id).begun_at is not None)

    def refuse() -> None:
        look()
        raise StorageError("503 Slow Down")

    with recorder_of(mill, lease, FaultyStore(store, [refuse, look])) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        assert recorder.wait()
    assert begun == [True, False]
    assert mill.counts(job) == Counts(done=1)


def test_the_row_describes_the_file(mill: Mill, lease: Lease, store: FolderStorage) -> None:
    import hashlib

    mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    with recorder_of(mill, lease, store) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        recorder.wait()
    with mill.database.reading() as session:
        row = session.scalars(select(Object)).one()
    body = store.get(row.object_key)
    assert (len(body), hashlib.sha256(body).hexdigest()) == (row.size_bytes, row.sha256)
    record, pixels = read_record(body)
    assert record.spec == image.spec
    assert (pixels == pixels_of(image.spec)).all()


def test_one_commit_takes_many_images(
    mill: Mill, lease: Lease, store: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagemill.db.queries.pictures import objects

    # So many are waited for, however slowly they are stored.
    monkeypatch.setattr(recording, "COMMIT_IMAGES", 4)
    monkeypatch.setattr(recording, "COMMIT_SECONDS", 120.0)
    commits: list[int] = []
    complete = objects.complete

    def counted(session, **values):
        commits.append(len(values["stored"]))
        return complete(session, **values)

    monkeypatch.setattr("imagemill.worker.shifts.leased_images.objects.complete", counted)
    mill.load("job", [f"p{n}" for n in range(8)])
    with recorder_of(mill, lease, store) as recorder:
        for image in claimed(mill, lease):
            recorder.add(image, picture_of(image), ENVIRONMENT)
        recorder.wait()
    assert commits == [4, 4]


def test_the_last_images_are_committed_at_once_when_somebody_waits_for_them(
    mill: Mill, lease: Lease, store: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit waits for more images, but not at the end of a job, where none will come."""
    monkeypatch.setattr(recording, "COMMIT_SECONDS", 600.0)
    job = mill.load("job", ["a", "b", "c"])
    images = claimed(mill, lease)
    let_go = threading.Event()
    slow = FaultyStore(store, [lambda: bool(let_go.wait(240))] * 2)
    with recorder_of(mill, lease, slow) as recorder:
        for image in images[:2]:
            recorder.add(image, picture_of(image), ENVIRONMENT)
        assert not recorder.wait(at_most=0, seconds=0), "nothing is stored"
        let_go.set()
        assert recorder.wait(seconds=240)
        recorder.add(images[2], picture_of(images[2]), ENVIRONMENT)
        assert recorder.wait(seconds=240)
        assert mill.counts(job).done == 3


def test_a_file_made_in_another_environment_is_recorded_with_it(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    mill.load("job", ["a", "b"])
    one, two = claimed(mill, lease)
    with recorder_of(mill, lease, store) as recorder:
        recorder.add(one, picture_of(one), ENVIRONMENT)
        recorder.add(two, picture_of(two), ENVIRONMENT.changed(vae_dtype="fp32"))
        recorder.wait()
    with mill.database.reading() as session:
        ids = session.scalars(select(Object.environment_id)).all()
    assert len(set(ids)) == 2


def test_a_file_that_is_there_already_is_adopted(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    """As after a crash between the file and the row."""
    job = mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    lost = mill.shift()
    with recorder_of(mill, lease, store) as recorder:
        recorder._store(image, picture_of(image), ENVIRONMENT)
    assert lost
    assert len(list(store.list())) == 1
    assert mill.counts(job) == Counts(leased=1)
    with recorder_of(mill, lease, store) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        recorder.wait()
    assert len(list(store.list())) == 1
    assert mill.counts(job) == Counts(done=1)


def test_a_refusal_is_raised_by_the_next_call(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    faulty = FaultyStore(store, [StorageDenied("no such bucket")])
    with recorder_of(mill, lease, faulty) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        with pytest.raises(StorageDenied):
            recorder.wait()
        with pytest.raises(StorageDenied):
            recorder.add(image, picture_of(image), ENVIRONMENT)
    assert faulty.puts == 1, "a refusal is not tried again"


def test_leaving_ends_the_tries_of_a_store_that_is_down(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    job = mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    faulty = FaultyStore(store, [StorageError("down")] * 999)
    with recorder_of(mill, lease, faulty) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        while faulty.puts < 2:
            assert not recorder.wait(seconds=0.01)
    recorder._pool.shutdown(wait=True)
    tries = faulty.puts
    time.sleep(0.5)
    assert faulty.puts == tries
    assert mill.counts(job) == Counts(leased=1)


def test_leaving_does_not_wait_for_a_request_that_hangs(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    job = mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    let_go, started = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        let_go.wait(240)

    try:
        with recorder_of(mill, lease, FaultyStore(store, [hang])) as recorder:
            recorder.add(image, picture_of(image), ENVIRONMENT)
            assert started.wait(120)
            assert not recorder.wait(seconds=0.1)
        assert mill.counts(job) == Counts(leased=1)
    finally:
        let_go.set()


def test_a_late_file_of_a_lost_shift_changes_no_row(
    mill: Mill, lease: Lease, store: FolderStorage
) -> None:
    job = mill.load("job", ["a"])
    [image] = claimed(mill, lease)

    def lose() -> None:
        mill.expire(lease.shift_id)
        mill.rescue()

    with recorder_of(mill, lease, FaultyStore(store, [lose])) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        recorder.wait()
    assert recorder.done == 0
    assert mill.counts(job) == Counts(ready=1)


def test_a_database_that_stays_away_is_raised(
    mill: Mill, lease: Lease, store: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill.load("job", ["a"])
    [image] = claimed(mill, lease)

    def away(*_: object, **__: object) -> None:
        raise DatabaseError("gone")

    with recorder_of(mill, lease, store) as recorder:
        monkeypatch.setattr(mill.database, "run", away)
        recorder.add(image, picture_of(image), ENVIRONMENT)
        with pytest.raises(DatabaseError):
            recorder.wait()
        monkeypatch.undo()


def test_every_try_counts_as_progress(mill: Mill, lease: Lease, store: FolderStorage) -> None:
    """Else a store that is down for a while would look like a step that hangs."""
    mill.load("job", ["a"])
    [image] = claimed(mill, lease)
    seen: list[int] = []

    def look() -> None:
        seen.append(lease.progress)

    def fail() -> None:
        look()
        raise StorageError("down")

    with recorder_of(mill, lease, FaultyStore(store, [fail, fail, look])) as recorder:
        recorder.add(image, picture_of(image), ENVIRONMENT)
        recorder.wait()
    assert seen == [0, 1, 2]

"""Retention of what was uploaded, on both databases and both stores: never while it is needed."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from imagemill.db.clock import seconds_from_now
from imagemill.db.queries.api import files, requests, uploads
from imagemill.db.queries.api.requests import NewRequest
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.inputs import fetch_input, input_key, store_input
from imagemill.db.tables import ApiFile, ApiRequest, Upload
from imagemill.scheduler_jobs.api.requests.uploaded_pictures import keep_picture
from imagemill.scheduler_jobs.removal import remove_jobs
from imagemill.scheduler_jobs.submit.input_files import InputFiles
from imagemill.scheduler_jobs.upload_retention import Swept, UploadRetention
from tests.contract.jobs.test_removals import at_the_same_time
from tests.helpers.mill import Mill, spec

DAYS = 30


@pytest.fixture
def settings(storage: Storage) -> Settings:
    return Settings.load(storage_url=storage.uri, uploads_days=DAYS)


@pytest.fixture
def sweeping(mill: Mill, settings: Settings) -> UploadRetention:
    found = UploadRetention.from_settings(mill.database, settings)
    assert found is not None
    return found


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def upload(mill: Mill, storage: Storage, content: bytes, *, days: float = DAYS + 1) -> str:
    """A picture that was uploaded so many days ago; its digest."""
    keep_picture(mill.database, storage, content)
    age(mill, digest(content), days)
    return digest(content)


def age(mill: Mill, which: str, days: float) -> None:
    past = seconds_from_now(-days * 86400)
    mill.database.run(
        lambda session: session.execute(
            update(Upload).where(Upload.digest == which).values(used_at=past)
        )
    )


def kept(mill: Mill, storage: Storage) -> set[str]:
    """The digests of the pictures that are there, as table and store agree."""
    with mill.database.reading() as session:
        noted = set(session.scalars(select(Upload.digest)))
    stored = {each.key.rpartition("/")[2] for each in storage.list("inputs")}
    assert noted == stored
    return stored


def test_what_no_image_starts_from_goes_after_its_time(
    mill: Mill, storage: Storage, settings: Settings, sweeping: UploadRetention
) -> None:
    old, young = upload(mill, storage, b"old"), upload(mill, storage, b"young", days=DAYS - 1)
    needed = {
        name: upload(mill, storage, name.encode())
        for name in ("init_image", "mask", "reference_image")
    }
    images = [
        replace(spec("a"), init_image=needed["init_image"], strength=0.5, mask=needed["mask"]),
        replace(spec("b"), reference_image=needed["reference_image"]),
    ]
    job = mill.load("job", images)
    assert sweeping.run_once() == Swept(pictures=1, files=0)
    assert old not in kept(mill, storage)
    # Also while the images are done: without their pictures they could not be rendered again.
    shift = mill.shift()
    while held := mill.claim(shift):
        mill.complete(shift, held)
    assert sweeping.run_once() == Swept(pictures=0, files=0)
    assert kept(mill, storage) == {young, *needed.values()}
    remove_jobs(mill.database, storage, settings, [job])
    assert sweeping.run_once().pictures == 3
    assert kept(mill, storage) == {young}


def test_who_uses_it_again_has_it_for_another_time(
    mill: Mill, storage: Storage, settings: Settings, sweeping: UploadRetention
) -> None:
    again = upload(mill, storage, b"again")
    named = upload(mill, storage, b"named")
    keep_picture(mill.database, storage, b"again")
    inputs = InputFiles(
        settings,
        keep=True,
        used=lambda each: mill.database.run(lambda session: uploads.touch_upload(session, each)),
    )
    assert inputs.digest(named) == named
    assert sweeping.run_once().pictures == 0
    assert kept(mill, storage) == {again, named}


def test_an_input_of_a_manifest_is_no_upload(
    mill: Mill, storage: Storage, sweeping: UploadRetention
) -> None:
    storage.put(input_key(digest(b"ours")), b"ours", media_type="image/png")
    assert sweeping.run_once().pictures == 0
    assert fetch_input(storage, digest(b"ours")) == b"ours"


def store_unrecorded(storage: Storage, *contents: bytes) -> list[str]:
    """Pictures that are in the store and no upload, as before version 0019; their digests."""
    return [store_input(storage, content) for content in contents]


def test_a_picture_that_nobody_recorded_goes_a_whole_time_after_it_was_found(
    mill: Mill, storage: Storage, settings: Settings, sweeping: UploadRetention
) -> None:
    unknown, needed, foreign = store_unrecorded(storage, b"unknown", b"needed", b"foreign")
    job = mill.load("job", [replace(spec("a"), init_image=needed, strength=0.5)])
    storage.delete(input_key(foreign))
    storage.put(f"inputs/ours/{foreign}", b"foreign", media_type="text/plain")
    assert sweeping.run_once() == Swept(pictures=0, files=0, found=0), "the files are young"
    # To a retention of no time at all every file is old, and what it finds is used just now.
    impatient = replace(sweeping, age=timedelta(0))
    assert impatient.run_once() == Swept(pictures=0, files=0, found=1)
    assert sweeping.run_once() == Swept(pictures=0, files=0, found=0)
    age(mill, unknown, DAYS + 1)
    assert sweeping.run_once() == Swept(pictures=1, files=0, found=0)
    there = {each.key for each in storage.list("inputs")}
    assert there == {input_key(needed), f"inputs/ours/{foreign}"}
    # What only a removed job needed is found as well.
    mill.database.run(lambda session: lifecycle.cancel(session, job))
    remove_jobs(mill.database, storage, settings, [job])
    assert impatient.run_once().found == 1
    assert fetch_input(storage, needed) == b"needed"


def test_what_was_found_stays_when_it_is_submitted_again(
    mill: Mill, storage: Storage, settings: Settings, sweeping: UploadRetention
) -> None:
    [found] = store_unrecorded(storage, b"found")
    assert replace(sweeping, age=timedelta(0)).run_once().found == 1
    age(mill, found, DAYS + 1)
    given = InputFiles(
        settings,
        keep=True,
        given={found: b"found"},
        used=lambda each: mill.database.run(lambda session: uploads.touch_upload(session, each)),
    )
    assert given.digest(found) == found
    assert sweeping.run_once().pictures == 0
    assert kept(mill, storage) == {found}


def test_many_pictures_are_looked_for_at_once(mill: Mill) -> None:
    """More than either database takes as single parameters of a statement."""
    many = [digest(str(number).encode()) for number in range(40_000)]
    mill.load("job", [replace(spec("a"), init_image=many[7], strength=0.5)])
    mill.database.run(lambda session: uploads.record_found(session, many[:2]))
    with mill.database.reading() as session:
        assert uploads.referred_to(session, many) == {many[7]}
        assert uploads.unknown(session, many) == set(many[2:])


def test_who_uploads_while_it_is_swept_finds_it(
    mill: Mill, storage: Storage, sweeping: UploadRetention
) -> None:
    which = upload(mill, storage, b"at the same time")

    def sweep(meet: Any) -> None:
        def step(session: Any) -> None:
            taken = uploads.take_old_uploads(session, [which], older_than=timedelta(days=DAYS))
            assert taken == [which]
            meet()
            storage.delete(input_key(which))

        mill.database.run(step)

    at_the_same_time(sweep, lambda: keep_picture(mill.database, storage, b"at the same time"))
    assert kept(mill, storage) == {which}
    assert sweeping.run_once().pictures == 0


def test_nothing_goes_while_a_request_waits_to_become_a_job(
    mill: Mill, storage: Storage, sweeping: UploadRetention
) -> None:
    old = upload(mill, storage, b"old")
    batch = NewRequest(
        id="batch_1",
        kind=requests.BATCH,
        owner="",
        idempotency_key="k",
        fingerprint="f" * 64,
        images=1,
        seed=1,
        document={"input_file_id": "file-1"},
    )

    def begin(session: Any) -> None:
        requests.record(session, batch)
        files.add_file(
            session, file_id="file-1", owner="", filename="x", purpose="batch", content=b"x"
        )
        session.execute(update(ApiFile).values(created_at=seconds_from_now(-DAYS * 86400 - 60)))

    mill.database.run(begin)
    assert sweeping.run_once() == Swept(pictures=0, files=0)
    assert kept(mill, storage) == {old}
    mill.database.run(lambda session: requests.set_failed(session, batch.id, []))
    assert sweeping.run_once() == Swept(pictures=1, files=1)
    with mill.database.reading() as session:
        assert files.find_file(session, "file-1", owner=None) is None
        assert session.scalars(select(ApiRequest.id)).all() == ["batch_1"], "requests stay"


def test_nothing_is_swept_where_the_settings_say_so(sqlite_mill: Mill) -> None:
    settings = Settings.load(uploads_days=0)
    assert UploadRetention.from_settings(sqlite_mill.database, settings) is None

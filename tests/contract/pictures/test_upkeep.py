"""`verify` and `sweep` over both databases and both stores."""

import hashlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.pictures import objects
from imagemill.db.queries.pictures.objects import NewObject
from imagemill.db.states import ImageState, JobState
from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.store_check import Damage, sweep, verify
from tests.helpers.mill import Mill, spec, stored

OLD = 0.0
"""Seconds: everything that is there is older."""


def fill(mill: Mill, storage: Storage, name: str, prompts: list[str]) -> int:
    """A finished job whose files are really in the store."""
    job_id = mill.load(name, prompts)
    render(mill, storage)
    return job_id


def render(mill: Mill, storage: Storage) -> None:
    """One shift renders what is ready; its files are really in the store."""
    shift_id = mill.shift()
    images = mill.claim(shift_id)
    files = []
    for image in images:
        body = f"picture {image.request_key}".encode()
        digest = hashlib.sha256(body).hexdigest()
        key = f"{image.request_key[:2]}/{image.request_key}-{digest}.png"
        storage.put(key, body, media_type="image/png")
        file = stored(image.request_key)
        files.append(replace(file, object_key=key, sha256=digest, size_bytes=len(body)))
    mill.database.run(
        lambda session: objects.complete(
            session, shift_id=shift_id, environment_id=mill.environment_id, stored=files
        )
    )
    mill.end(shift_id)
    mill.finish_jobs()


@pytest.fixture
def job(mill, storage) -> int:
    storage.probe()
    return fill(mill, storage, "job", ["a", "b", "c"])


def keys(storage: Storage) -> list[str]:
    return sorted(item.key for item in storage.list())


def replace_object(storage: Storage, key: str, body: bytes) -> None:
    storage.delete(key)
    storage.put(key, body, media_type="image/png")


def test_an_undamaged_job_verifies(mill, storage, job):
    result = verify(mill.database, storage, job, requeue=True)
    assert result.checked == 3
    assert result.findings == ()
    assert mill.job(job).state == JobState.FINISHED


def test_damage_is_found_and_told_apart(mill, storage, job):
    first, second, _ = keys(storage)
    storage.delete(first)
    replace_object(storage, second, b"x" * len(storage.get(second)))
    result = verify(mill.database, storage, job, requeue=False)
    found = {finding.object_key: finding.damage for finding in result.findings}
    assert found == {first: Damage.MISSING, second: Damage.DAMAGED}
    assert result.requeued == 0
    assert mill.counts(job).done == 3


def test_requeue_renders_what_is_damaged_again_for_every_job_that_shares_it(mill, storage, job):
    sharing = mill.load("sharing", ["a", "b", "c"])
    mill.finish_jobs()
    assert mill.counts(sharing).done == 3
    damaged = keys(storage)[0]
    replace_object(storage, damaged, b"not a picture")
    result = verify(mill.database, storage, job, requeue=True)
    assert result.requeued == 2
    assert damaged not in keys(storage)
    for job_id in (job, sharing):
        assert mill.job(job_id).state == JobState.OPEN
        again = [image for image in mill.images(job_id) if image.state == ImageState.READY]
        assert [image.generation for image in again] == [2]
        assert mill.events(again[0].id)[-1] == "requeued"
    shift_id = mill.shift()
    assert mill.complete(shift_id, mill.claim(shift_id)) == 2
    assert mill.counts(job).done == 3


def test_a_job_whose_reused_images_are_requeued_while_it_loads_may_still_be_rejected(
    mill, storage, job
):
    rejected, opened = mill.create("rejected"), mill.create("opened")
    for loading in (rejected, opened):
        mill.insert(loading, [spec(prompt) for prompt in "abc"])
        assert mill.counts(loading).done == 3
    storage.delete(keys(storage)[0])
    assert verify(mill.database, storage, job, requeue=True).requeued == 3
    assert mill.database.run(
        lambda session: lifecycle.reject(session, rejected, message="a bad row")
    )
    assert mill.images(rejected) == []
    assert mill.database.run(lambda session: lifecycle.open_job(session, opened))
    shift_id = mill.shift()
    assert mill.complete(shift_id, mill.claim(shift_id)) == 2
    assert mill.counts(opened).done == 3
    assert mill.audit() == []


def test_sweep_finds_only_what_has_no_row_and_is_old_enough(mill, storage, job):
    storage.put("ab/stray.png", b"nobody's", media_type="image/png")
    storage.put("inputs/ab/init-image", b"an input", media_type="image/png")
    storage.put("kernels/ab.bin", b"kernels", media_type="application/octet-stream")
    young = sweep(mill.database, storage, older_than_seconds=3600, delete=True)
    assert young.strays == ()
    listed = sweep(mill.database, storage, older_than_seconds=OLD, delete=False)
    assert [item.key for item in listed.strays] == ["ab/stray.png"]
    assert listed.deleted == 0
    deleted = sweep(mill.database, storage, older_than_seconds=OLD, delete=True)
    assert deleted.deleted == 1
    left = keys(storage)
    assert "ab/stray.png" not in left
    assert "inputs/ab/init-image" in left
    assert "kernels/ab.bin" in left
    assert verify(mill.database, storage, job, requeue=False).findings == ()


def rendered(mill: Mill, storage: Storage, job: int) -> tuple[int, NewObject]:
    """A shift that has stored its image's file and not recorded it yet, and that file."""
    shift = mill.shift()
    [image] = mill.claim(shift)
    assert image.job_id == job
    body = f"picture {image.request_key}".encode()
    digest = hashlib.sha256(body).hexdigest()
    key = f"{image.request_key[:2]}/{image.request_key}-{digest}.png"
    storage.put(key, body, media_type="image/png")
    file = stored(image.request_key)
    return shift, replace(file, object_key=key, sha256=digest, size_bytes=len(body))


def record(mill: Mill, shift: int, file: NewObject) -> None:
    mill.database.run(
        lambda session: objects.complete(
            session, shift_id=shift, environment_id=mill.environment_id, stored=[file]
        )
    )


def test_a_file_that_a_worker_is_about_to_record_is_no_stray_to_delete(mill, folder_storage):
    """It may be old: the same picture was stored before by a worker that was killed then."""
    job = mill.load("job", ["a"])
    shift, file = rendered(mill, folder_storage, job)
    found = sweep(mill.database, folder_storage, older_than_seconds=OLD, delete=True)
    assert ([item.key for item in found.strays], found.deleted) == ([file.object_key], 0)
    record(mill, shift, file)
    assert verify(mill.database, folder_storage, job, requeue=False).findings == ()


def test_a_file_that_is_recorded_while_strays_are_looked_for_stays(mill, folder_storage):
    job = mill.load("job", ["a"])
    shift, file = rendered(mill, folder_storage, job)

    class Meanwhile(FolderStorage):
        """Asked for leftovers, so between finding strays and deleting them, the worker records."""

        def leftovers(self):
            record(mill, shift, file)
            mill.end(shift)
            return super().leftovers()

    store = Meanwhile(Path(urlsplit(folder_storage.uri).path))
    assert sweep(mill.database, store, older_than_seconds=OLD, delete=True).deleted == 0
    assert verify(mill.database, folder_storage, job, requeue=False).findings == ()


def test_no_worker_takes_an_image_while_its_stray_is_deleted(mill, folder_storage):
    """It would find the file there, store nothing, and record what is gone."""
    job = mill.load("job", ["a"])
    shift, _ = rendered(mill, folder_storage, job)
    mill.end(shift)
    claimed = []

    class Meanwhile(FolderStorage):
        def delete(self, key):
            if not mill.database.is_sqlite:  # there, a transaction that writes is alone
                claimed.extend(mill.claim(mill.shift()))
            super().delete(key)

    store = Meanwhile(Path(urlsplit(folder_storage.uri).path))
    assert sweep(mill.database, store, older_than_seconds=OLD, delete=True).deleted == 1
    assert (claimed, keys(folder_storage)) == ([], [])
    record(mill, *rendered(mill, folder_storage, job))
    assert verify(mill.database, folder_storage, job, requeue=False).findings == ()

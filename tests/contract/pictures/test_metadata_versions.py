"""Files of an earlier metadata version after an upgrade, on both databases and both stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagemill.db import specs
from imagemill.db.queries.audit import audit
from imagemill.db.queries.pictures.originals import sample_originals
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.submit.plan import plan
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit
from imagemill.worker.files.encoder import read_record
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill
from tests.helpers.workshop import Workshop


@pytest.fixture
def version_1() -> Iterator[pytest.MonkeyPatch]:
    """As if this were the version before; undone in the middle of a test, and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specs, "METADATA_VERSION", 1)
        yield patch


def test_an_upgrade_makes_nothing_be_rendered_again(
    mill: Mill, storage: Storage, tmp_path: Path, version_1: pytest.MonkeyPatch
) -> None:
    old = finished_job(mill, storage, tmp_path)
    kept = {key: storage.get(key) for key in (found.key for found in storage.list())}
    version_1.undo()
    settings = Settings.load(broker_url="redis://127.0.0.1:1/0", storage_url=storage.uri)
    request = SubmissionRequest(
        manifest=str(tmp_path / "set.jsonl"), defaults=Parameters(samples=2, steps=2)
    )
    again = submit(request, settings=settings, database=mill.database)
    assert (again.created, again.job_id) == (False, old)

    edited = tmp_path / "edited.jsonl"
    edited.write_text((tmp_path / "set.jsonl").read_text() + '{"prompt": "one more"}\n')
    request = SubmissionRequest(manifest=str(edited), defaults=Parameters(samples=2, steps=2))
    planned = plan(request, settings=settings, database=mill.database)
    assert (planned.images, planned.reused) == (8, 6)
    job = submit(request, settings=settings, database=mill.database).job_id
    counts = mill.counts(job)
    assert (counts.done, counts.ready) == (6, 2)

    workshop = Workshop(mill, tmp_path / "unused")
    workshop.storage = storage
    workshop.shift()
    records = [read_record(storage.get(found.key))[0] for found in storage.list()]
    assert sorted(record.metadata_version for record in records).count(2) == 2
    assert {key: storage.get(key) for key in kept} == kept
    with mill.database.reading() as session:
        assert not audit(session)
        assert len(sample_originals(session, job, 8)) == 8


def test_a_job_of_the_version_before_gets_the_files_that_it_asked_for(
    mill: Mill, storage: Storage, tmp_path: Path, version_1: pytest.MonkeyPatch
) -> None:
    """Queued before the upgrade, rendered after it: equal request keys, equal bytes."""
    job = mill.load("waiting", ["a red circle", "a blue square"])
    version_1.undo()
    workshop = Workshop(mill, tmp_path / "unused")
    workshop.storage = storage
    workshop.shift()
    assert mill.counts(job).done == 2
    for found in storage.list():
        record, _ = read_record(storage.get(found.key))
        assert record.metadata_version == 1
        assert found.key.rpartition("/")[2].startswith(record.request_key)

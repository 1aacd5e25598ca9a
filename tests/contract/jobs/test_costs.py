"""What a job cost, on both databases."""

from dataclasses import replace

from sqlalchemy import text

from imagemill.db.queries.fleet.costs import DeviceTime, JobTime, time_of_job
from imagemill.db.queries.pictures import environments
from tests.helpers.mill import Mill, sha, spec

H200 = {"device": "cuda", "device_name": "NVIDIA H200", "driver": "580"}


def environment(mill: Mill, document: dict[str, str]) -> int:
    return mill.database.run(
        lambda session: environments.environment_id(
            session, fingerprint=sha(str(document)), document=document
        )
    )


def time(mill: Mill, job: int) -> JobTime:
    with mill.database.reading() as session:
        return time_of_job(session, job)


def test_by_device_and_once_for_what_images_share(mill: Mill) -> None:
    same = [spec("a"), spec("b"), spec("b"), spec("c")]
    job = mill.load("job", [replace(each, seed=7) for each in same])
    assert time(mill, job) == JobTime(devices=(), reused=0)
    mill.environment_id = environment(mill, H200)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=2))
    mill.environment_id = environment(mill, H200 | {"driver": "590"})
    mill.complete(shift, mill.claim(shift, limit=2))
    assert mill.counts(job).done == 4
    found = time(mill, job)
    assert found.devices == (
        DeviceTime(device="NVIDIA H200", kind="cuda", images=3, seconds=1.5),
    ), "a new driver is another environment, and the same device"


def test_what_was_there_before_costs_nothing(mill: Mill) -> None:
    mill.load("first", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    past = "2001-01-01 00:00:00+00" if not mill.database.is_sqlite else "2001-01-01 00:00:00.000000"
    with mill.database.writing() as session:
        session.execute(text(f"UPDATE objects SET created_at = '{past}'"))
    job = mill.load("second", ["a", "b"])
    mill.complete(shift, mill.claim(shift, limit=1))
    found = time(mill, job)
    assert found.reused == 1
    assert [(each.device, each.images) for each in found.devices] == [("unknown", 1)]

"""What a plan predicts, on both databases: from what the same kind of image took before."""

from collections import Counter
from dataclasses import replace

from imagemill.db.queries.fleet.rates import Kind
from imagemill.db.queries.pictures import environments
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.submit.forecast import Forecast, forecast
from tests.helpers.mill import Mill, sha, spec

SMALL = Kind.of(spec("any"))
H200 = {"device": "cuda", "device_name": "NVIDIA H200"}
CPU = {"device": "cpu", "device_name": "AMD EPYC"}


def rendered(mill: Mill, name: str, document: dict[str, str], count: int) -> None:
    mill.environment_id = mill.database.run(
        lambda session: environments.environment_id(
            session, fingerprint=sha(str(document)), document=document
        )
    )
    mill.load(name, [f"{name} {n}" for n in range(count)])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=count))
    mill.end(shift)


def test_from_images_of_the_same_kind_by_device(mill: Mill) -> None:
    settings = Settings(prices="H200=3.6")
    work = Counter({SMALL: 100})
    assert forecast(work, database=mill.database, settings=settings) == ((), 100)
    rendered(mill, "one", H200, 3)
    rendered(mill, "two", CPU, 2)
    for other in (
        replace(SMALL, steps=21),
        replace(SMALL, sampler="heun"),
        Kind.of(spec("wide", width=128)),
    ):
        work[other] = 10
    forecasts, unmeasured = forecast(work, database=mill.database, settings=settings)
    assert unmeasured == 30
    assert sorted(forecasts, key=lambda each: each.device) == [
        Forecast(device="AMD EPYC", images=100, seconds=50.0, cost=None),
        Forecast(device="NVIDIA H200", images=100, seconds=50.0, cost=0.05),
    ]


def test_nothing_to_render_takes_no_time(mill: Mill) -> None:
    assert forecast(Counter(), database=mill.database, settings=Settings()) == ((), 0)

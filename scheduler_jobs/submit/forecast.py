"""What rendering would take, by what images of the same kind took before, and what has no room."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from imagemill.db.database import Database
from imagemill.db.documents import JSON
from imagemill.db.queries.fleet.memory import Fleet, SizedGroup, TooLarge
from imagemill.db.queries.fleet.rates import MOST_KINDS, Kind, measured_rates
from imagemill.db.queries.fleet.workers import FleetWorker
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.scheduler_jobs.prices import price_of, read_prices
from imagemill.scheduler_jobs.submit.request import SubmissionRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What some of the images would take on one device of a kind; `cost` is None without a price.

    `images` are those of whose kind images were rendered on such a device before.
    """

    device: str = field(metadata={JSON: "device"})
    images: int
    seconds: float
    cost: float | None


def forecast(
    work: Counter[Kind], *, database: Database, settings: Settings
) -> tuple[tuple[Forecast, ...], int]:
    """The forecast by device, that with the most images first; and the images without any.

    Raises `SettingsError` if the prices are none.
    """
    prices = read_prices(settings.prices)
    largest = dict(work.most_common(MOST_KINDS))
    with database.reading() as session:
        rates = measured_rates(session, list(largest))
    images: Counter[tuple[str, str]] = Counter()
    seconds: dict[tuple[str, str], float] = {}
    for kind, found in rates.items():
        for rate in found:
            device = (rate.device, rate.device_kind)
            images[device] += work[kind]
            seconds[device] = seconds.get(device, 0.0) + work[kind] * rate.seconds
    forecasts = []
    for place, count in images.most_common():
        name, device_kind = place
        price = price_of(prices, device=name, kind=device_kind)
        cost = None if price is None else price * seconds[place] / 3600
        forecasts.append(Forecast(device=name, images=count, seconds=seconds[place], cost=cost))
    return tuple(forecasts), sum(work.values()) - sum(work[kind] for kind in rates)


def too_large(
    work: Counter[Kind],
    sizes: Mapping[str, ImageSpec],
    database: Database | None,
    request: SubmissionRequest,
) -> tuple[TooLarge, ...]:
    """What live workers have no memory for; `sizes` has an image of each group, by its key."""
    if database is None:
        return ()
    images: Counter[str] = Counter()
    for kind, count in work.items():
        images[kind.group_key] += count
    groups = [
        SizedGroup(
            key=key,
            digest=spec.weights_digest,
            model=spec.model,
            width=spec.width,
            height=spec.height,
            images=images[key],
        )
        for key, spec in sizes.items()
    ]
    with database.reading() as session:
        return tuple(Fleet(session).too_large(groups, route=request.route, needs=request.needs))


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadlineCheck:
    """How many devices of a kind render the measured images by the deadline, and how many live."""

    device: str
    needed: int
    alive: int
    in_time: bool


def check_deadline(
    forecasts: Iterable[Forecast], seconds: float, workers: Iterable[FleetWorker]
) -> list[DeadlineCheck]:
    """Whether the workers make it in so many seconds, if they are all of one kind of device."""
    alive = Counter(worker.device_name or worker.device for worker in workers)
    found = []
    for each in forecasts:
        needed = math.ceil(each.seconds / seconds)
        there = alive[each.device]
        found.append(
            DeadlineCheck(
                device=each.device, needed=needed, alive=there, in_time=0 < needed <= there
            )
        )
    return found

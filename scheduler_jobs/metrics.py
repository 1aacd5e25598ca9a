"""The dispatcher's metrics: what it did itself, and what the database says of the fleet.

The fleet's numbers are read when somebody asks for them. So two dispatchers give the same numbers:
take the maximum of them, not their sum.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from cachetools import LRUCache
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError, UsageError
from imagemill.db.process.metrics_page import serve_metrics
from imagemill.db.queries.fleet import backlog, reports
from imagemill.db.queries.fleet.owners import list_owners
from imagemill.db.queries.notifications import count_notifications, overdue_seconds
from imagemill.db.queries.pictures.finished_images import Cursor, finished_since
from imagemill.db.settings import Settings

log = logging.getLogger(__name__)

ROUNDS = Counter("imagemill_rounds", "Rounds of the dispatcher.", registry=None)
RESCUED = Counter(
    "imagemill_rescued_images",
    "Images that this dispatcher released because their worker was lost.",
    registry=None,
)
WAKE_UPS = Counter("imagemill_wake_ups", "Tokens that this dispatcher published.", registry=None)
NOTIFICATIONS_SENT = Counter(
    "imagemill_notifications_sent", "Notifications that this dispatcher delivered.", registry=None
)
NOTIFICATION_FAILURES = Counter(
    "imagemill_notification_failures",
    "Tries of this dispatcher to deliver a notification that failed.",
    registry=None,
)

COUNTERS = (ROUNDS, RESCUED, WAKE_UPS, NOTIFICATIONS_SENT, NOTIFICATION_FAILURES)
"""What this process counts itself."""

MOST_JOBS = 100
"""How many jobs have numbers of their own: the newest live ones, and those last worked on."""

MOST_GROUPS = 50
"""How many groups of images have a number of their own; the smaller ones are `other`."""

OTHER = "other"

MOST_OWNERS = 100
"""How many owners have numbers of their own."""


Family = GaugeMetricFamily | CounterMetricFamily


def families() -> dict[str, Family]:
    """The fleet's metrics by name, without samples."""
    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    found: tuple[Family, ...] = (
        gauge("imagemill_database_up", "1 if the database answered, else 0."),
        counter(
            "imagemill_images",
            "Images that became done since this dispatcher was first asked.",
            labels=("route", "outcome"),
        ),
        counter(
            "imagemill_gpu_seconds",
            "Seconds of the engine's time for pictures of a job, since it was first asked.",
            labels=("job_id", "job_name"),
        ),
        gauge(
            "imagemill_job_images",
            "Images of a live job, by state.",
            labels=("job_id", "job_name", "state"),
        ),
        gauge(
            "imagemill_backlog_images",
            "Ready images of open jobs, by route and group (model and size).",
            labels=("route", "group"),
        ),
        gauge(
            "imagemill_owner_images",
            "Images of an owner's open jobs, by state.",
            labels=("owner", "state"),
        ),
        gauge("imagemill_leased_images", "Images that workers hold.", labels=("route",)),
        gauge(
            "imagemill_oldest_ready_seconds",
            "Seconds since the oldest job with ready images was opened.",
            labels=("route",),
        ),
        gauge(
            "imagemill_workers",
            "Live worker processes that are not lost.",
            labels=("route", "state"),
        ),
        gauge("imagemill_stale_leases", "Leases that are over and that nobody has ended."),
        counter("imagemill_lease_expiries", "Shifts that lost their lease, ever."),
        gauge(
            "imagemill_notifications",
            "Notifications that wait, were sent, or failed for good.",
            labels=("state",),
        ),
        gauge(
            "imagemill_notifications_overdue_seconds",
            "Seconds since the oldest notification that waits should have been sent.",
        ),
    )
    return {family.name: family for family in found}


def serve_fleet(settings: Settings, *, port: int | None = None) -> Callable[[], None]:
    """Serve the dispatcher's metrics, on `port` or that of the settings; the result stops it.

    Without either it does nothing. Raises `SettingsError` if nobody can listen there.
    """
    if port is not None:
        settings = settings.model_copy(update={"metrics_port": port})
    if settings.metrics_port is None:
        return lambda: None
    # Connections of its own: a slow scrape must not keep a round waiting.
    database = Database.from_settings(settings)
    page = CollectorRegistry()
    for counter in COUNTERS:
        page.register(counter)
    page.register(FleetCollector(database))
    stop = serve_metrics(page, settings)

    def close() -> None:
        stop()
        database.close()

    return close


class FleetCollector(Collector):
    """Asks the database at each scrape. A database that is away gives `imagemill_database_up 0`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._since: Cursor | None = None
        self._images: dict[tuple[str, str], int] = {}
        self._seconds: LRUCache[tuple[str, str], float] = LRUCache(MOST_JOBS)

    def describe(self) -> Iterator[Metric]:
        """The families, without asking the database."""
        yield from families().values()

    def collect(self) -> Iterator[Metric]:
        """One sample for each thing that is there now."""
        known = families()
        with self._lock:  # two scrapes at once would count what became done twice
            try:
                with self._database.reading() as session:
                    live = backlog.list_live_jobs(session, limit=MOST_JOBS)
                    self._follow(session, live)
                    samples = list(_read(session, live))
            except DatabaseError as error:
                log.warning("no metrics of the fleet: %s", error)
                samples = [("imagemill_database_up", (), 0)]
            else:
                samples += self._totals()
        for name, labels, value in samples:
            known[name].add_metric(labels, value)
        yield from known.values()

    def _totals(self) -> Iterable["_Sample"]:
        for place, images in self._images.items():
            yield "imagemill_images", place, images
        for job, seconds in self._seconds.items():
            yield "imagemill_gpu_seconds", job, seconds

    def _follow(self, session: Session, live: Iterable[backlog.LiveJob]) -> None:
        """Add up what became done since the last time; the first time only remember the place."""
        for each in live:  # so that Prometheus sees each counter begin at 0
            self._images.setdefault((each.route, "ok"), 0)
            self._seconds.setdefault((str(each.id), each.name), 0.0)
        first = self._since is None
        try:
            cursor, pages = finished_since(session, self._since)
        except UsageError:  # the database was restored, or what we knew of it was removed
            first = True
            cursor, pages = finished_since(session, None)
        images: dict[tuple[str, str], int] = {}
        seconds: dict[tuple[str, str], float] = {}
        for image_ids in () if first else pages:
            for found in backlog.sum_finished(session, image_ids):
                place = (found.route, found.outcome)
                images[place] = images.get(place, 0) + found.images
                job = (str(found.job_id), found.job_name)
                seconds[job] = seconds.get(job, 0.0) + found.seconds
        # Only now: after an error in between, the next scrape begins at the same place again.
        self._since = cursor
        for place, more in images.items():
            self._images[place] = self._images.get(place, 0) + more
        for job, took in seconds.items():
            self._seconds[job] = self._seconds.get(job, 0.0) + took


_Sample = tuple[str, tuple[str, ...], float]


def _read(session: Session, live: Iterable[backlog.LiveJob]) -> Iterator[_Sample]:
    yield "imagemill_database_up", (), 1
    yield from _backlog(backlog.list_backlog(session))
    for owner in list_owners(session)[:MOST_OWNERS]:
        for state, images in (("ready", owner.ready), ("leased", owner.leased)):
            yield "imagemill_owner_images", (owner.name, state), images
    for route, seconds in backlog.oldest_ready(session).items():
        yield "imagemill_oldest_ready_seconds", (route,), seconds
    for job in live:
        for state in ("ready", "leased", "done", "dead", "cancelled"):
            place = (str(job.id), job.name, state)
            yield "imagemill_job_images", place, getattr(job.counts, state)
    workers: dict[tuple[str, str], int] = {}
    for worker in reports.list_workers(session):
        if worker.lost:
            continue
        state = "draining" if worker.draining else "working" if worker.working else "idle"
        workers[worker.route, state] = workers.get((worker.route, state), 0) + 1
    for route_and_state, count in workers.items():
        yield "imagemill_workers", route_and_state, count
    yield "imagemill_stale_leases", (), backlog.count_stale_leases(session)
    yield "imagemill_lease_expiries", (), backlog.count_lost_shifts(session)
    for state, count in count_notifications(session).items():
        yield "imagemill_notifications", (state,), count
    yield "imagemill_notifications_overdue_seconds", (), overdue_seconds(session)


def _backlog(found: Iterable[backlog.Backlog]) -> Iterator[_Sample]:
    """The largest groups by themselves, the others together; images in work by route."""
    leased: dict[str, int] = {}
    ready: dict[tuple[str, str], int] = {}
    for each in found:
        leased[each.route] = leased.get(each.route, 0) + each.leased
        place = (each.route, f"{each.model} {each.width}x{each.height}")
        ready[place] = ready.get(place, 0) + each.ready
    for place, images in _largest(ready).items():
        yield "imagemill_backlog_images", place, images
    for route, images in leased.items():
        yield "imagemill_leased_images", (route,), images


def _largest(ready: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    by_size = sorted(ready.items(), key=lambda item: -item[1])
    found = dict(by_size[:MOST_GROUPS])
    for (route, _), images in by_size[MOST_GROUPS:]:
        found[route, OTHER] = found.get((route, OTHER), 0) + images
    return found

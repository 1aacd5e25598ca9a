"""The dispatcher's metrics on both databases: what they say is what the tables say."""

from collections.abc import Collection, Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from imagemill.db.clock import seconds_from_now
from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError
from imagemill.db.queries.fleet import backlog
from imagemill.db.queries.fleet.workers import list_fleet
from imagemill.db.queries.notifications import add_webhooks
from imagemill.db.queries.work.presence import LOST_SECONDS
from imagemill.db.tables import Notification, Worker
from imagemill.scheduler_jobs import metrics
from imagemill.scheduler_jobs.metrics import FleetCollector
from tests.helpers.deploy.metrics import Samples, value
from tests.helpers.mill import REFUSED, Mill, spec


@pytest.fixture
def registry(mill: Mill) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(FleetCollector(mill.database))
    return registry


def scraped(registry: CollectorRegistry) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_backlog_by_route_and_group(mill: Mill, registry: CollectorRegistry) -> None:
    mill.load("one", ["a", "b", "c"])
    mill.load("wide", [spec("w", width=128)], route="80gb")
    mill.load("loading", ["d"], opened=False)
    shift = mill.shift()
    mill.claim(shift, limit=1)
    found = scraped(registry)
    assert value(found, "imagemill_backlog_images", route="default", group="m-aaaa 64x64") == 2
    assert value(found, "imagemill_backlog_images", route="80gb", group="m-aaaa 128x64") == 1
    assert value(found, "imagemill_backlog_images") == 3
    assert value(found, "imagemill_leased_images", route="default") == 1
    ages = [v for (name, _), v in found.items() if name == "imagemill_oldest_ready_seconds"]
    assert len(ages) == 2
    assert all(0 <= age < 300 for age in ages)
    assert value(found, "imagemill_job_images", job_name="one", state="ready") == 2
    assert value(found, "imagemill_workers", route="default", state="working") == 1
    assert value(found, "imagemill_database_up") == 1


@pytest.mark.parametrize("renders", [False, True], ids=["idle", "working"])
def test_a_worker_that_is_lost_counts_no_more(
    mill: Mill, registry: CollectorRegistry, renders: bool
) -> None:
    """As `imagemill workers` says it, also while its lease still runs."""
    mill.load("one", ["a"])
    shift = mill.shift()
    if renders:
        mill.claim(shift)
    else:
        mill.end(shift)
    for seconds, lost in ((LOST_SECONDS - 20, False), (LOST_SECONDS + 5, True)):
        seen = update(Worker).values(seen_at=seconds_from_now(-seconds))
        mill.database.run(lambda session, seen=seen: session.execute(seen))
        assert value(scraped(registry), "imagemill_workers") == (0 if lost else 1)
        with mill.database.reading() as session:
            [listed] = list_fleet(session)
        assert (listed.state == "lost") == lost


def test_what_became_done_counts_once(mill: Mill, registry: CollectorRegistry) -> None:
    mill.load("before", ["x"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    assert value(scraped(registry), "imagemill_images_total") == 0, "it was there before us"
    job = mill.load("one", ["a", "b", "c"])
    assert value(scraped(registry), "imagemill_gpu_seconds_total", job_id=str(job)) == 0
    mill.complete(shift, mill.claim(shift, limit=2))
    for _ in range(2):
        found = scraped(registry)
        assert value(found, "imagemill_images_total", route="default", outcome="ok") == 2
        assert value(found, "imagemill_gpu_seconds_total", job_name="one") == 1.0
    mill.complete(shift, mill.claim(shift, limit=1))
    assert value(scraped(registry), "imagemill_images_total") == 3


def test_a_scrape_that_breaks_off_counts_nothing(
    mill: Mill, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill.load("one", ["a", "b"])
    scraped(registry)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    mill.complete(shift, mill.claim(shift, limit=1))
    whole = backlog.sum_finished

    def broken(session: Session, image_ids: Collection[int]) -> Iterator[backlog.Finished]:
        yield from whole(session, image_ids)
        raise DatabaseError("the connection is gone")

    with monkeypatch.context() as patched:
        patched.setattr(backlog, "sum_finished", broken)
        assert value(scraped(registry), "imagemill_database_up") == 0
    found = scraped(registry)
    assert value(found, "imagemill_images_total") == 2
    assert value(found, "imagemill_gpu_seconds_total", job_name="one") == 1.0


def test_a_picture_that_was_there_costs_its_job_nothing(
    mill: Mill, registry: CollectorRegistry
) -> None:
    mill.load("one", ["a"])
    scraped(registry)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    again = mill.load("two", ["a"])
    found = scraped(registry)
    assert mill.counts(again).done == 1
    assert value(found, "imagemill_images_total") == 1
    assert value(found, "imagemill_gpu_seconds_total", job_name="one") == 0.5
    assert value(found, "imagemill_gpu_seconds_total", job_id=str(again)) == 0


def test_leases_that_are_over_and_dead_images(mill: Mill, registry: CollectorRegistry) -> None:
    mill.load("one", ["a", "b"])
    shift = mill.shift()
    held = mill.claim(shift, limit=1)
    mill.expire(shift)
    found = scraped(registry)
    assert value(found, "imagemill_stale_leases") == 1
    assert value(found, "imagemill_lease_expiries_total") == 0
    mill.rescue()
    found = scraped(registry)
    assert value(found, "imagemill_stale_leases") == 0
    assert value(found, "imagemill_lease_expiries_total") == 1
    assert held
    shift = mill.shift()
    [image] = mill.claim(shift, limit=1)
    mill.begin(shift, [image.id])
    mill.fail(shift, image.id, REFUSED)
    assert value(scraped(registry), "imagemill_job_images", state="dead") == 1


def test_few_series_whatever_the_groups(
    mill: Mill, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MOST_GROUPS", 2)
    mill.load("many", [spec(f"p{n}", width=64 + 8 * n) for n in range(5)])
    found = scraped(registry)
    series = [labels for name, labels in found if name == "imagemill_backlog_images"]
    assert len(series) == 3
    assert value(found, "imagemill_backlog_images", group=metrics.OTHER) == 3
    assert value(found, "imagemill_backlog_images") == 5


def test_a_database_that_is_away_is_said(tmp_path) -> None:
    registry = CollectorRegistry()
    registry.register(FleetCollector(Database(f"sqlite:///{tmp_path}/none/none.sqlite3")))
    assert scraped(registry) == {("imagemill_database_up", frozenset()): 0}


def test_counting_lost_shifts_reads_only_them(mill: Mill) -> None:
    with mill.database.writing() as session:
        if not mill.database.is_sqlite:
            session.execute(text("SET enable_seqscan = off"))
        statement = str(_statement_of(session))
        explain = "EXPLAIN QUERY PLAN " if mill.database.is_sqlite else "EXPLAIN "
        plan = "\n".join(str(row) for row in session.execute(text(explain + statement)))
    assert "ix_shifts_lost" in plan


def _statement_of(session) -> str:
    said: list[str] = []

    class Listening:
        def scalar(self, query):
            said.append(str(query.compile(session.get_bind())))
            return 0

    backlog.count_lost_shifts(Listening())  # type: ignore[arg-type]
    return said[0]


def test_a_picture_that_images_on_two_pages_share_is_paid_once(mill: Mill) -> None:
    job = mill.load("twins", [spec("a"), spec("a"), spec("b")])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    pages = [[image.id] for image in mill.images(job)]
    with mill.database.reading() as session:
        found = [each for page in pages for each in backlog.sum_finished(session, page)]
        (together,) = backlog.sum_finished(session, [image.id for image in mill.images(job)])
    assert sum(each.images for each in found) == together.images == 3
    assert sum(each.seconds for each in found) == together.seconds == 1.0, "two pictures"


def test_notifications_that_wait_too_long(mill: Mill, registry: CollectorRegistry) -> None:
    overdue = "imagemill_notifications_overdue_seconds"
    job = mill.load("job", ["a"])
    mill.database.run(lambda session: add_webhooks(session, job, ["https://example.org/hook"]))
    assert value(scraped(registry), overdue) == 0
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    assert mill.finish_jobs() == 1
    late = update(Notification).values(due_at=seconds_from_now(-700))
    mill.database.run(lambda session: session.execute(late))
    assert 700 <= value(scraped(registry), overdue) < 1000
    later = update(Notification).values(due_at=seconds_from_now(60))
    mill.database.run(lambda session: session.execute(later))
    assert value(scraped(registry), overdue) == 0, "it waits for its next try"

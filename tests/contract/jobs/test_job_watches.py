"""When a job is told to fail in number or to stand still."""

import json
import threading

from sqlalchemy import update

from imagemill.db.clock import seconds_from_now
from imagemill.db.database import Database
from imagemill.db.queries.jobs.job_watches import WatchRules, watch_jobs
from imagemill.db.tables import JobWatch, Notification
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from tests.helpers.http.webhooks import WebhookServer
from tests.helpers.mill import REFUSED, Mill
from tests.helpers.notified import outbox, settings

RULES = WatchRules(dead_images=2, dead_share=0.5, stalled_seconds=600)


def look(mill: Mill, sender: Notifier, rules: WatchRules = RULES) -> list[str]:
    """Look at the jobs once; the events that were told, with their jobs."""
    before = {row.id for row in outbox(mill)}
    audience = sender.receivers.audience
    mill.database.run(lambda session: watch_jobs(session, rules, audience))
    return [f"{row.event} {row.job_name}" for row in outbox(mill) if row.id not in before]


def still_for(mill: Mill, seconds: float) -> None:
    past = update(JobWatch).values(since=seconds_from_now(-seconds))
    mill.database.run(lambda session: session.execute(past))


def test_a_job_that_fails_in_number_is_told_once(mill: Mill, sender: Notifier) -> None:
    job = mill.load("job", [f"p{n}" for n in range(8)])
    shift = mill.shift()
    claimed = mill.claim(shift)
    mill.complete(shift, claimed[:2])
    mill.fail(shift, claimed[2].id, REFUSED)
    assert look(mill, sender) == [], "one is no number"
    mill.fail(shift, claimed[3].id, REFUSED)
    assert look(mill, sender) == ["job.failing job"]
    assert look(mill, sender) == []
    with mill.database.reading() as session:
        body = session.get_one(Notification, outbox(mill)[0].id).body
    data = json.loads(body)["data"]
    assert (data["dead"], data["done"], data["codes"]) == (2, 2, {"input_image": 2})
    mill.give_back(shift)
    assert mill.retry(job) == 2
    assert look(mill, sender) == []
    for image in mill.claim(shift)[:2]:
        mill.fail(shift, image.id, REFUSED)
    assert look(mill, sender) == ["job.failing job"], "again, after a retry"


def test_a_share_that_is_small_is_no_failing_job(sqlite_mill: Mill, server: WebhookServer) -> None:
    sender = Notifier(sqlite_mill.database, settings(server))
    sqlite_mill.load("job", [f"p{n}" for n in range(8)])
    shift = sqlite_mill.shift()
    claimed = sqlite_mill.claim(shift)
    sqlite_mill.complete(shift, claimed[:4])
    for image in claimed[4:6]:
        sqlite_mill.fail(shift, image.id, REFUSED)
    assert look(sqlite_mill, sender) == [], "2 of 6"
    assert look(sqlite_mill, sender, WatchRules(**{**_fields(RULES), "dead_share": 0.3})) == [
        "job.failing job"
    ]


def _fields(rules: WatchRules) -> dict[str, float]:
    return {name: getattr(rules, name) for name in rules.__dataclass_fields__}


def test_a_job_that_stands_still_is_told_once(mill: Mill, sender: Notifier) -> None:
    mill.load("job", ["a", "b", "c"])
    assert look(mill, sender) == []
    still_for(mill, 400)
    assert look(mill, sender) == []
    still_for(mill, 601)
    assert look(mill, sender) == ["job.stalled job"]
    assert look(mill, sender) == []
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    assert look(mill, sender) == [], "it moves again"
    still_for(mill, 601)
    assert look(mill, sender) == ["job.stalled job"]


def test_a_job_that_is_paused_or_waits_for_its_turn_is_not_stalled(
    mill: Mill, sender: Notifier
) -> None:
    paused = mill.load("paused", ["a"])
    mill.load("low", ["b"])
    assert look(mill, sender) == []
    still_for(mill, 601)
    assert mill.pause(paused)
    mill.load("high", ["c", "d"], priority=5)
    mill.load("elsewhere", ["e"], priority=5, route="80gb")
    assert look(mill, sender) == [], "the job with the higher priority has just begun"
    assert mill.resume(paused)
    assert look(mill, sender) == [], "its time begins anew"
    still_for(mill, 601)
    assert sorted(look(mill, sender)) == [
        *("job.stalled elsewhere", "job.stalled high", "job.stalled low", "job.stalled paused")
    ]


def test_a_job_whose_images_are_all_in_work_is_not_stalled(mill: Mill, sender: Notifier) -> None:
    mill.load("job", ["a"])
    look(mill, sender)
    mill.claim(mill.shift())
    still_for(mill, 601)
    assert look(mill, sender) == []


def test_two_dispatchers_tell_it_once(postgres_database: Database, server: WebhookServer) -> None:
    mill = Mill(postgres_database)
    senders = [Notifier(postgres_database, settings(server)) for _ in range(2)]
    for n in range(5):
        mill.load(f"job {n}", ["a"])
    look(mill, senders[0])
    still_for(mill, 601)
    threads = [threading.Thread(target=look, args=(mill, each)) for each in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outbox(mill)) == 5

"""Notifications on both databases: the outbox, real deliveries, and what is told when."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.database import Database
from imagemill.db.notification_tables import JobWatch, Notification
from imagemill.db.queries import jobs
from imagemill.db.queries.job_watches import WatchRules, watch_jobs
from imagemill.db.queries.notifications import (
    NOBODY,
    NotificationReport,
    add_webhooks,
    list_notifications,
    retry_notifications,
)
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.notifications import addresses, deliveries, notifier
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from imagemill.scheduler_jobs.removal import remove_jobs
from tests.helpers.mill import REFUSED, Mill
from tests.helpers.webhooks import OLD_SECRET, SECRET, WebhookServer, webhook_server

RULES = WatchRules(dead_images=2, dead_share=0.5, stalled_seconds=600)


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


def settings(server: WebhookServer | None = None, **more: object) -> Settings:
    own = {} if server is None else {"notify_urls": server.url}
    return Settings.load(**({"notify_secret": SECRET} | own | more))


@pytest.fixture
def sender(mill: Mill, server: WebhookServer) -> Iterator[Notifier]:
    """A dispatcher's notifier whose one receiver is the server."""
    notifier = Notifier(mill.database, settings(server))
    yield notifier
    notifier.close()


def finish(mill: Mill, sender: Notifier, name: str = "job") -> int:
    """A job with one image that is done, finished by the dispatcher of `sender`."""
    job = mill.load(name, ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    mill.end(shift)
    audience = sender.receivers.audience
    assert mill.database.run(lambda s: jobs.finish_jobs(s, audience=audience)) == 1
    return job


def outbox(mill: Mill) -> list[NotificationReport]:
    """Oldest first."""
    with mill.database.reading() as session:
        return list_notifications(session, limit=100)[::-1]


def wait_out(mill: Mill) -> None:
    """Every wait, and every claim, is over."""
    over = update(Notification).values(due_at=now())
    mill.database.run(lambda session: session.execute(over))


def test_a_job_that_finishes_is_told_and_signed(
    mill: Mill, server: WebhookServer, sender: Notifier
) -> None:
    job = finish(mill, sender)
    sender.run_once()
    (got,) = server.received
    assert got.is_signed_by(SECRET)
    assert not got.is_signed_by(OLD_SECRET)
    assert got.headers["content-type"] == "application/json"
    told = json.loads(got.body)
    assert told["type"] == "job.finished"
    assert told["timestamp"]
    data = told["data"]
    assert (data["job_id"], data["job_name"], data["state"]) == (job, "job", "finished")
    assert (data["requested"], data["done"], data["dead"]) == (1, 1, 0)
    assert data["finished_at"]
    (row,) = outbox(mill)
    assert (row.state, row.tries, row.note, row.message_id) == ("sent", 1, "HTTP 204", got.id)
    assert row.to == f"http://127.0.0.1:{server.server_port}", "no path: it may be a secret"
    sender.run_once()
    assert len(server.received) == 1


def test_a_message_is_there_if_and_only_if_the_job_is_finished(
    mill: Mill, sender: Notifier
) -> None:
    mill.load("job", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))

    def broken(session: object) -> None:
        assert jobs.finish_jobs(session, audience=sender.receivers.audience) == 1  # type: ignore[arg-type]
        raise KeyError("the dispatcher dies before the commit")

    with pytest.raises(KeyError):
        mill.database.run(broken)
    assert outbox(mill) == []
    audience = sender.receivers.audience
    assert mill.database.run(lambda s: jobs.finish_jobs(s, audience=audience)) == 1
    assert mill.database.run(lambda s: jobs.finish_jobs(s, audience=audience)) == 0
    assert len(outbox(mill)) == 1


def test_nothing_is_written_where_nobody_listens(mill: Mill) -> None:
    finish(mill, Notifier(mill.database, settings()))
    assert outbox(mill) == []


def test_two_secrets_while_one_is_changed(mill: Mill, server: WebhookServer) -> None:
    sender = Notifier(mill.database, settings(server, notify_secret=f"{SECRET} {OLD_SECRET}"))
    finish(mill, sender)
    sender.run_once()
    assert server.received[0].is_signed_by(SECRET)
    assert server.received[0].is_signed_by(OLD_SECRET)


def test_a_receiver_that_fails_twice_gets_the_same_message_again(
    mill: Mill, server: WebhookServer, sender: Notifier
) -> None:
    server.answers = [500, "die"]
    finish(mill, sender)
    for tries, state in ((1, "waiting"), (2, "waiting"), (3, "sent")):
        sender.run_once()
        (row,) = outbox(mill)
        assert (row.tries, row.state) == (tries, state), row.note
        sender.run_once()
        assert len(server.received) == tries, "nothing is tried before its time"
        wait_out(mill)
    assert len(set(server.ids)) == 1
    assert len({each.body for each in server.received}) == 1
    assert all(each.is_signed_by(SECRET) for each in server.received)


def test_the_first_line_of_a_failure_is_kept(
    mill: Mill, server: WebhookServer, sender: Notifier
) -> None:
    server.answers = [500]
    finish(mill, sender)
    sender.run_once()
    assert outbox(mill)[0].note == "HTTP 500: it says secret things"


@pytest.mark.parametrize("answer", ["hang", "trickle"])
def test_a_receiver_that_does_not_answer_is_broken_off(
    sqlite_mill: Mill, server: WebhookServer, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(deliveries.Request, "seconds", 0.5)
    sender = Notifier(sqlite_mill.database, settings(server))
    server.answers = [answer]
    finish(sqlite_mill, sender)
    began = time.monotonic()
    sender.run_once()
    assert time.monotonic() - began < 60
    (row,) = outbox(sqlite_mill)
    assert row.state == "waiting"
    assert row.note is not None
    assert row.note.startswith("no answer in")


def test_after_the_last_try_it_has_failed_until_somebody_says_again(
    mill: Mill, server: WebhookServer, sender: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "RETRY_SECONDS", (5,))
    server.answers = [500, 500]
    finish(mill, sender)
    for state in ("waiting", "failed"):
        sender.run_once()
        assert outbox(mill)[0].state == state
        wait_out(mill)
    sender.run_once()
    assert len(server.received) == 2
    (row,) = outbox(mill)
    assert mill.database.run(lambda session: retry_notifications(session, None)) == [row.id]
    sender.run_once()
    assert outbox(mill)[0].state == "sent"
    assert len(set(server.ids)) == 1
    assert mill.database.run(lambda session: retry_notifications(session, None)) == []
    assert mill.database.run(lambda session: retry_notifications(session, [row.id, 99])) == [row.id]
    sender.run_once()
    assert len(server.received) == 4


@pytest.mark.parametrize(("status", "state"), [(410, "failed"), (302, "waiting"), (200, "sent")])
def test_what_an_answer_means(
    sqlite_mill: Mill, server: WebhookServer, status: int, state: str
) -> None:
    sender = Notifier(sqlite_mill.database, settings(server))
    server.answers = [status]
    finish(sqlite_mill, sender)
    sender.run_once()
    assert outbox(sqlite_mill)[0].state == state
    assert [each.path for each in server.received] == ["/hooks/path-hunter2?token=query-hunter2"]


def test_a_job_s_own_webhook(mill: Mill, server: WebhookServer) -> None:
    sender = Notifier(mill.database, settings(notify_hosts="127.0.0.1 *.lab"))
    mine = mill.load("mine", ["a"])
    mill.load("other", ["b"])
    for _ in range(2):
        mill.database.run(lambda session: add_webhooks(session, mine, [server.url]))
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    assert mill.finish_jobs() == 2
    server.answers = [500]
    sender.run_once()
    (row,) = outbox(mill)
    assert row.job_id == mine
    assert row.note == "HTTP 500", "a job may not read what the dispatcher can reach"
    wait_out(mill)
    sender.run_once()
    assert server.received[1].is_signed_by(SECRET)


@pytest.mark.parametrize(
    ("url", "hosts", "why"),
    [
        ("http://127.0.0.1:{port}/x", None, "must be https://"),
        ("https://127.0.0.1:{port}/x", None, "its host is not public"),
        ("https://localhost:{port}/x", None, "its host is not public"),
        (
            "http://127.0.0.1:{port}/x",
            "hooks.lab *.example.com",
            "is not in IMAGEMILL_NOTIFY_HOSTS",
        ),
        ("http://127.0.0.1:{port}/x", "127.0.0.1:1", "is not in IMAGEMILL_NOTIFY_HOSTS"),
    ],
)
def test_a_job_s_webhook_reaches_nothing_that_it_may_not(
    sqlite_mill: Mill, server: WebhookServer, url: str, hosts: str | None, why: str
) -> None:
    job = sqlite_mill.load("job", ["a"])
    address = addresses.check_url(url.format(port=server.server_port))
    sqlite_mill.database.run(lambda session: add_webhooks(session, job, [address]))
    shift = sqlite_mill.shift()
    sqlite_mill.complete(shift, sqlite_mill.claim(shift))
    sqlite_mill.finish_jobs()
    Notifier(sqlite_mill.database, settings(notify_hosts=hosts)).run_once()
    assert server.received == []
    (row,) = outbox(sqlite_mill)
    assert row.state == "waiting"
    assert why in str(row.note)


def test_a_webhook_that_nobody_can_sign_waits(sqlite_mill: Mill, server: WebhookServer) -> None:
    job = sqlite_mill.load("job", ["a"])
    sqlite_mill.database.run(lambda session: add_webhooks(session, job, [server.url]))
    shift = sqlite_mill.shift()
    sqlite_mill.complete(shift, sqlite_mill.claim(shift))
    sqlite_mill.finish_jobs()
    Notifier(sqlite_mill.database, Settings.load(notify_hosts="*")).run_once()
    assert server.received == []
    assert "IMAGEMILL_NOTIFY_SECRET" in str(outbox(sqlite_mill)[0].note)


def test_two_dispatchers_send_each_message_once(mill: Mill, server: WebhookServer) -> None:
    senders = [Notifier(mill.database, settings(server)) for _ in range(2)]
    for n in range(12):
        finish(mill, senders[0], name=f"job {n}")
    threads = [threading.Thread(target=each.run_once) for each in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.ids) == len(set(server.ids)) == 12
    assert {row.state for row in outbox(mill)} == {"sent"}
    for each in senders:
        each.close()


def test_a_result_that_comes_after_the_claim_ran_out_changes_nothing(
    mill: Mill, server: WebhookServer, sender: Notifier
) -> None:
    late = Notifier(mill.database, settings(server))
    finish(mill, sender)
    server.answers = [500]
    late._begin()
    wait_out(mill)
    while not late._tries[0].future.done():
        time.sleep(0.01)
    sender.run_once()
    assert outbox(mill)[0].state == "sent"
    late._settle()
    assert outbox(mill)[0].state == "sent"
    assert outbox(mill)[0].note == "HTTP 204"


def test_a_slow_receiver_keeps_no_round_and_no_other_receiver(
    sqlite_mill: Mill, server: WebhookServer
) -> None:
    with webhook_server() as other:
        both = settings(notify_urls=f"{server.url} {other.url}")
        sender = Notifier(sqlite_mill.database, both)
        server.answers = ["hang"]
        stop = threading.Event()
        thread = threading.Thread(target=sender.run_until, args=(stop,))
        finish(sqlite_mill, sender)
        thread.start()
        give_up = time.monotonic() + 60
        while not (other.received and server.received) and time.monotonic() < give_up:
            time.sleep(0.02)
        finish(sqlite_mill, sender, name="second")
        while len(other.received) < 2 and time.monotonic() < give_up:
            time.sleep(0.02)
        assert len(other.received) == 2
        stop.set()
        thread.join()
        assert not server.over.is_set(), "it still hangs, and the dispatcher has stopped"


# The command ---------------------------------------------------------------------------------


def commanded(mill: Mill, tmp_path: Path, script: str) -> Notifier:
    (tmp_path / "told.py").write_text(script)
    command = f"{sys.executable} '{tmp_path / 'told.py'}'"
    return Notifier(mill.database, Settings.load(notify_command=command, notify_secret=SECRET))


def test_the_command_gets_the_event_on_stdin_and_in_its_environment(
    sqlite_mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEMILL_NOTIFY_SECRET", SECRET)
    sender = commanded(
        sqlite_mill,
        tmp_path,
        "import json, os, sys\n"
        "known = {n: v for n, v in os.environ.items() if n.startswith('IMAGEMILL_')}\n"
        f"json.dump([sys.stdin.read(), known], open({str(tmp_path / 'out.json')!r}, 'w'))\n"
        "print('thanks')\n",
    )
    job = finish(sqlite_mill, sender)
    sender.run_once()
    (row,) = outbox(sqlite_mill)
    assert (row.state, row.to, row.note) == ("sent", "command", "status 0: thanks")
    given, known = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(given)["data"]["job_id"] == job
    assert known["IMAGEMILL_EVENT"] == given
    assert known["IMAGEMILL_EVENT_TYPE"] == "job.finished"
    assert known["IMAGEMILL_EVENT_ID"] == row.message_id
    assert known["IMAGEMILL_EVENT_JOB_ID"] == str(job)
    assert "IMAGEMILL_NOTIFY_SECRET" not in known


def test_a_command_that_fails_is_tried_again(sqlite_mill: Mill, tmp_path: Path) -> None:
    sender = commanded(sqlite_mill, tmp_path, "raise SystemExit('no room')")
    finish(sqlite_mill, sender)
    sender.run_once()
    (row,) = outbox(sqlite_mill)
    assert (row.state, row.note) == ("waiting", "status 1: no room")


def test_a_command_that_never_ends_is_killed_with_its_children(
    sqlite_mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries.CommandRun, "seconds", 0.5)
    script = "import subprocess\nsubprocess.run(['sleep', '600'])\n"
    sender = commanded(sqlite_mill, tmp_path, script)
    finish(sqlite_mill, sender)
    began = time.monotonic()
    sender.run_once()
    assert time.monotonic() - began < 60
    assert outbox(sqlite_mill)[0].state == "waiting"


def test_a_command_is_never_read_from_the_database(sqlite_mill: Mill, tmp_path: Path) -> None:
    """Whoever can write rows may ask for the dispatcher's own command, and for no other."""
    own = commanded(sqlite_mill, tmp_path, "print('mine')")
    finish(sqlite_mill, own)
    forged = update(Notification).values(target=f"touch {tmp_path / 'forged'}")
    sqlite_mill.database.run(lambda session: session.execute(forged))
    own.run_once()
    assert not (tmp_path / "forged").exists()
    assert outbox(sqlite_mill)[0].tries == 0


# What is watched ------------------------------------------------------------------------------


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
    still_for(mill, 599)
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


def test_events_that_nobody_asked_for_are_not_told(
    sqlite_mill: Mill, server: WebhookServer
) -> None:
    sender = Notifier(sqlite_mill.database, settings(server, notify_events="job.stalled"))
    finish(sqlite_mill, sender)
    assert outbox(sqlite_mill) == []
    assert NOBODY.receivers == ()


def test_notifications_go_with_their_job(
    mill: Mill, sender: Notifier, server: WebhookServer, tmp_path: Path
) -> None:
    job = finish(mill, sender)
    mill.database.run(lambda session: add_webhooks(session, job, [server.url]))
    store = FolderStorage(tmp_path)
    removed = remove_jobs(mill.database, store, Settings(storage_url=str(tmp_path)), [job])
    assert removed.jobs == 1
    assert outbox(mill) == []
    sender.run_once()
    assert server.received == []

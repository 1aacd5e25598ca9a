"""Notifications on both databases: the outbox and real deliveries."""

import json
import threading
import time
from pathlib import Path

import pytest

from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.notifications import (
    NOBODY,
    add_webhooks,
    retry_notifications,
)
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.notifications import addresses, deliveries, notifier
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from imagemill.scheduler_jobs.removal import remove_jobs
from tests.helpers.http.webhooks import OLD_SECRET, SECRET, WebhookServer, webhook_server
from tests.helpers.mill import Mill
from tests.helpers.notified import finish, outbox, settings, wait_out


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
        assert lifecycle.finish_jobs(session, audience=sender.receivers.audience) == 1  # type: ignore[arg-type]
        raise KeyError("the dispatcher dies before the commit")

    with pytest.raises(KeyError):
        mill.database.run(broken)
    assert outbox(mill) == []
    audience = sender.receivers.audience
    assert mill.database.run(lambda s: lifecycle.finish_jobs(s, audience=audience)) == 1
    assert mill.database.run(lambda s: lifecycle.finish_jobs(s, audience=audience)) == 0
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
    mill: Mill, server: WebhookServer, sender: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "RETRY_SECONDS", (600, 600))  # longer than the test may take
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
    monkeypatch.setattr(deliveries.WebhookRequest, "seconds", 0.5)
    sender = Notifier(sqlite_mill.database, settings(server))
    server.answers = [answer]
    finish(sqlite_mill, sender)
    began = time.monotonic()
    sender.run_once()
    assert time.monotonic() - began < 120, "it waited for as long as the receiver hangs"
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
    late._collect()
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
        give_up = time.monotonic() + 240
        while not (other.received and server.received) and time.monotonic() < give_up:
            time.sleep(0.02)
        finish(sqlite_mill, sender, name="second")
        while len(other.received) < 2 and time.monotonic() < give_up:
            time.sleep(0.02)
        assert len(other.received) == 2
        stop.set()
        thread.join()
        assert not server.over.is_set(), "it still hangs, and the dispatcher has stopped"


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

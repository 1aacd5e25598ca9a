"""`notifications`, `retry`, `test`, and `submit --notify`."""

import sys

import pytest
from sqlalchemy import select

from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.notifications import add_webhooks
from imagemill.db.tables import JobWebhook
from tests.helpers.http.webhooks import SECRET, webhook_server

URL = "https://hooks.example.com/services/hunter2"


@pytest.fixture
def told(mill):
    """Two jobs that finished, with a webhook each."""
    for name in ("one", "two"):
        job = mill.load(name, ["a"])
        mill.database.run(lambda session, job=job: add_webhooks(session, job, [URL]))
        shift = mill.shift()
        mill.complete(shift, mill.claim(shift))
        mill.end(shift)
        mill.database.run(lifecycle.finish_jobs)
    return mill


def test_they_are_listed_without_secrets(at_home, told):
    answer = at_home("notifications")
    assert answer.out.splitlines()[0].split() == [
        *("ID", "EVENT", "JOB", "TO", "STATE", "TRIES", "WHEN", "NOTE")
    ]
    assert "https://hooks.example.com" in answer.out
    document = at_home("notifications", "--json").json
    assert [each["job_name"] for each in document["notifications"]] == ["two", "one"]
    assert document["next"] is None
    assert "hunter2" not in answer.out + answer.err + str(document)
    (only,) = at_home("notifications", "--job", "one", "--json").json["notifications"]
    assert (only["event"], only["state"], only["tries"]) == ("job.finished", "waiting", 0)
    assert at_home("notifications", "--state", "failed").out == "no notifications\n"
    first = at_home("notifications", "--limit", "1", "--json").json
    assert first["next"] == first["notifications"][0]["notification_id"]
    last = at_home("notifications", "--before", first["next"], "--json").json["notifications"]
    assert last == [only]
    assert at_home("notifications", "--job", "nobody").code == 2


def test_they_are_sent_again(at_home, told):
    assert at_home("notifications", "retry", "--failed", "--json").json == {"notifications": []}
    assert at_home("notifications", "retry", "1").out == "1 notification will be sent again\n"
    for words in ([], ["1", "--failed"], ["99"], ["0"]):
        assert at_home("notifications", "retry", *words).code == 2, words


def test_a_test_event(imagemill, monkeypatch):
    assert "there is nobody to tell" in imagemill("notifications", "test").err
    with webhook_server() as server:
        command = f"{sys.executable} -c \"raise SystemExit('no')\""
        monkeypatch.setenv("IMAGEMILL_NOTIFY_URLS", server.url)
        assert imagemill("notifications", "test").code == 2, "there is no secret"
        monkeypatch.setenv("IMAGEMILL_NOTIFY_SECRET", SECRET)
        answer = imagemill("notifications", "test")
        assert answer.code == 0
        assert answer.out == f"ok     http://127.0.0.1:{server.server_port}: HTTP 204\n"
        assert server.received[0].is_signed_by(SECRET)
        server.answers = [302]
        monkeypatch.setenv("IMAGEMILL_NOTIFY_COMMAND", command)
        answer = imagemill("notifications", "test", "--json")
        assert answer.code == 1
        assert [(each["sent"], each["note"]) for each in answer.json["tested"]] == [
            (False, "HTTP 302: redirects are not followed"),
            (False, "status 1: no"),
        ]
    assert "hunter2" not in answer.out + answer.err


def test_submit_records_the_webhooks_of_a_job(at_home, home, mill, tmp_path, no_broker):
    (home / "objects").mkdir()
    manifest = tmp_path / "m.csv"
    manifest.write_text("prompt\na red circle\n")
    job = at_home("submit", manifest, "--notify", URL, "--json").json["job_id"]
    at_home("submit", manifest, "--notify", URL, "--notify", "https://two.example.com/")
    with mill.database.reading() as session:
        rows = session.execute(select(JobWebhook.job_id, JobWebhook.url)).all()
    assert sorted(map(tuple, rows)) == [(job, URL), (job, "https://two.example.com/")]
    answer = at_home("submit", manifest, "--notify", "https://user:hunter2@host/")
    assert answer.code == 2
    assert "it has a user or a password" in answer.err
    assert "hunter2" not in answer.err

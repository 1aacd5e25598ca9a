"""The command of a dispatcher's settings that is told of events."""

import json
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import update

from imagemill.db.settings import Settings
from imagemill.db.tables import Notification
from imagemill.scheduler_jobs.notifications import deliveries
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from tests.helpers.http.webhooks import SECRET
from tests.helpers.mill import Mill
from tests.helpers.notified import finish, outbox


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
    assert time.monotonic() - began < 300
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

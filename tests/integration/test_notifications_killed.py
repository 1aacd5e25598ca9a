"""A real dispatcher that is killed after it has sent a notification and before it recorded that."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue

import pytest
from sqlalchemy import update

from imagemill.db.clock import now
from imagemill.db.database import Database
from imagemill.db.queries.notifications import list_notifications
from imagemill.db.schema import migrate
from imagemill.db.states import JobState
from imagemill.db.tables import Notification
from tests.helpers.http.webhooks import SECRET, webhook_server
from tests.helpers.mill import Mill


def dispatcher(database_url: str, url: str, folder: Path) -> "subprocess.Popen[str]":
    """It does every duty once. Its broker is away, which it only says."""
    settings = {
        "IMAGEMILL_DATABASE_URL": database_url,
        "IMAGEMILL_BROKER_URL": "redis://127.0.0.1:9/0",
        "IMAGEMILL_NOTIFY_URLS": url,
        "IMAGEMILL_NOTIFY_SECRET": SECRET,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "imagemill", "dispatcher", "--once"],
        env=os.environ | settings,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_what_was_sent_and_not_recorded_is_sent_again_with_its_id(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    database_url = str(request.getfixturevalue(f"{kind}_url"))
    database = Database(database_url)
    migrate(database)
    mill = Mill(database)
    job = mill.load("job", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    mill.end(shift)
    with webhook_server() as server:
        # The receiver has the message; its answer finds nobody.
        pids: SimpleQueue[int] = SimpleQueue()
        server.on_receipt = lambda: os.kill(pids.get(), signal.SIGKILL)
        first = dispatcher(database_url, server.url, tmp_path)
        pids.put(first.pid)
        said, _ = first.communicate(timeout=240)
        assert first.returncode == -signal.SIGKILL, said
        assert mill.job(job).state == JobState.FINISHED
        server.on_receipt = lambda: None
        second = dispatcher(database_url, server.url, tmp_path)
        said, _ = second.communicate(timeout=240)
        assert second.returncode == 0, said
        assert len(server.received) == 1, "the claim of the dead one still holds"
        over = update(Notification).values(due_at=now())
        database.run(lambda session: session.execute(over))
        third = dispatcher(database_url, server.url, tmp_path)
        said, _ = third.communicate(timeout=240)
        assert third.returncode == 0, said
        assert len(server.received) == 2
        assert len(set(server.ids)) == 1
        assert all(each.is_signed_by(SECRET) for each in server.received)
        assert "hunter2" not in said
        assert SECRET not in said
    with database.reading() as session:
        (row,) = list_notifications(session, limit=10)
    assert (row.state, row.tries) == ("sent", 2)
    database.close()

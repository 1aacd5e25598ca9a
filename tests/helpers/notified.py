"""Jobs that notifications are written for, and the outbox."""

from sqlalchemy import update

from imagemill.db.clock import now
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.notifications import (
    NotificationReport,
    list_notifications,
)
from imagemill.db.settings import Settings
from imagemill.db.tables import Notification
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from tests.helpers.http.webhooks import SECRET, WebhookServer
from tests.helpers.mill import Mill


def settings(server: WebhookServer | None = None, **more: object) -> Settings:
    own = {} if server is None else {"notify_urls": server.url}
    return Settings.load(**({"notify_secret": SECRET} | own | more))


def finish(mill: Mill, sender: Notifier, name: str = "job") -> int:
    """A job with one image that is done, finished by the dispatcher of `sender`."""
    job = mill.load(name, ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    mill.end(shift)
    audience = sender.receivers.audience
    assert mill.database.run(lambda s: lifecycle.finish_jobs(s, audience=audience)) == 1
    return job


def outbox(mill: Mill) -> list[NotificationReport]:
    """Oldest first."""
    with mill.database.reading() as session:
        return list_notifications(session, limit=100)[::-1]


def wait_out(mill: Mill) -> None:
    """Every wait, and every claim, is over."""
    over = update(Notification).values(due_at=now())
    mill.database.run(lambda session: session.execute(over))

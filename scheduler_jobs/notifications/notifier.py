"""The dispatcher's duty to send notifications: it watches jobs, and empties the outbox.

It has a thread of its own, and each try another one with a time limit, so a receiver that does not
answer slows nobody down. Any number of dispatchers may do it: each message is claimed by one.
"""

import logging
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError
from imagemill.db.queries import notifications
from imagemill.db.queries.jobs.job_watches import watch_jobs
from imagemill.db.queries.notifications import DueNotification, Kind, Message
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs import metrics
from imagemill.scheduler_jobs.notifications.addresses import find_address
from imagemill.scheduler_jobs.notifications.deliveries import (
    COMMAND_SECONDS,
    CommandRun,
    Delivery,
    DeliveryResult,
    WebhookRequest,
)
from imagemill.scheduler_jobs.notifications.receivers import Receivers
from imagemill.scheduler_jobs.notifications.signature import signed_headers

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""The pause between two looks into the outbox."""

WATCH_SECONDS = 10.0
"""The pause between two looks at the jobs."""

AT_ONCE = 8
"""Tries under way at the same time."""

LEASE_SECONDS = COMMAND_SECONDS + 60
"""How long a claim holds: longer than any try, so that nobody sends the same at the same time."""

STOP_SECONDS = 3.0
"""How long the tries under way have to end when the dispatcher stops."""

RETRY_SECONDS = (5, 30, 300, 1800, 7200, 18000, 36000, 50400)
"""The waits after the first, second, … failed try. After the last one, 33 hours later, it stays
failed until `imagemill notifications retry`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Try:
    """A try under way."""

    due: DueNotification
    delivery: Delivery
    future: "Future[DeliveryResult]"
    give_up: float


class Notifier:
    """Watches jobs and delivers what is due, with the receivers of the settings.

    Raises `SettingsError` for settings that can't be used.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.receivers = Receivers.from_settings(settings)
        self._database = database
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="notification")
        self._tries: list[_Try] = []

    def run_until(self, stop: threading.Event) -> None:
        """Do it until `stop` is set. Trouble is logged."""
        next_watch = 0.0
        while not stop.is_set():
            try:
                if time.monotonic() >= next_watch:
                    self.watch()
                    next_watch = time.monotonic() + WATCH_SECONDS
                self._begin()
                self._collect()
            except DatabaseError as error:
                log.warning("notifications wait for the database: %s", error)
            except Exception:  # a thread that ended here would tell nobody anything any more
                log.exception("notifications")
            stop.wait(LOOK_SECONDS)
        self.close()

    def run_once(self) -> None:
        """Look at the jobs, try everything that is due once, and wait for the results."""
        self.watch()
        while self._begin() or self._tries:
            self._collect()
            time.sleep(0.02)

    def close(self) -> None:
        """Wait a moment for the tries under way, and break off the others.

        Whatever is not recorded then is sent again by somebody, with the same id.
        """
        give_up = time.monotonic() + STOP_SECONDS
        while self._tries and time.monotonic() < give_up:
            time.sleep(0.02)
            try:
                self._collect()
            except DatabaseError as error:
                log.warning("notifications that were sent will be sent again: %s", error)
                break
        for each in self._tries:
            each.delivery.abort()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def watch(self) -> None:
        """Tell of jobs that fail in number or stand still."""
        found = self.receivers
        self._database.run(lambda session: watch_jobs(session, found.rules, found.audience))

    def _begin(self) -> int:
        """Claim what is due and begin to send it; how much that was."""
        room, mine = AT_ONCE - len(self._tries), self.receivers.audience.receivers
        if not room:
            return 0
        with self._database.reading() as session:
            if not notifications.is_any_due(session, mine):
                return 0
        claimed = self._database.run(
            lambda session: notifications.claim_due(
                session, mine, limit=room, lease_seconds=LEASE_SECONDS
            )
        )
        for due in claimed:
            delivery = delivery_of(self.receivers, due.message, due.kind, due.target)
            self._tries.append(
                _Try(
                    due=due,
                    delivery=delivery,
                    future=self._pool.submit(delivery.run),
                    give_up=time.monotonic() + delivery.seconds,
                )
            )
        return len(claimed)

    def _collect(self) -> None:
        """Record the tries that ended, and break off those that take too long."""
        for each in list(self._tries):
            if each.future.done():
                self._record(each.due, _result_of(each.future))
                self._tries.remove(each)
            elif time.monotonic() > each.give_up:
                each.delivery.abort()

    def _record(self, due: DueNotification, result: DeliveryResult) -> None:
        sending = f"{due.message.event} of job {due.message.job_id} to {due.shown}: {result.note}"
        note = result.note
        if result.sent:
            log.info("sent %s", sending)
            metrics.NOTIFICATIONS_SENT.inc()
            self._database.run(lambda session: notifications.record_sent(session, due, note=note))
            return
        wait = None if result.final else _wait(due.tries)
        again = "not tried again" if wait is None else f"tried again in {wait:.0f} s"
        log.warning("not sent, %s: %s", again, sending)
        metrics.NOTIFICATION_FAILURES.inc()
        self._database.run(
            lambda session: notifications.record_failure(
                session, due, note=note, retry_seconds=wait
            )
        )


def delivery_of(receivers: Receivers, message: Message, kind: Kind, target: str) -> Delivery:
    """A try to deliver a message to the receiver of this kind and key."""
    body = message.body.encode()
    if kind == "command":
        return CommandRun(receivers.command, variables=_variables(message), body=body)
    if not receivers.secrets:
        return _Unsigned()
    own = kind == "setting"
    url = receivers.urls[target] if own else target

    def headers() -> dict[str, str]:
        return signed_headers(
            receivers.secrets,
            message_id=message.message_id,
            timestamp=int(time.time()),
            body=body,
        )

    return WebhookRequest(
        url,
        find=partial(find_address, url, trusted=own, hosts=receivers.hosts),
        headers=headers,
        body=body,
        # A job's address may have been chosen to read what only the dispatcher can reach.
        quote=own,
    )


class _Unsigned(Delivery):
    """A webhook that nobody here can sign."""

    seconds = 1.0

    def run(self) -> DeliveryResult:
        """Say what is missing."""
        return DeliveryResult(
            sent=False, note="the dispatcher has no IMAGEMILL_NOTIFY_SECRET to sign it"
        )

    def abort(self) -> None:
        """Nothing is under way."""


def _result_of(future: "Future[DeliveryResult]") -> DeliveryResult:
    error = future.exception()
    if error is None:
        return future.result()
    log.error("a bug in a delivery", exc_info=error)
    return DeliveryResult(sent=False, note=f"a bug: {type(error).__name__}")


def _variables(message: Message) -> dict[str, str]:
    """What the command finds in its environment."""
    return {
        "IMAGEMILL_EVENT": message.body,
        "IMAGEMILL_EVENT_ID": message.message_id,
        "IMAGEMILL_EVENT_TYPE": message.event,
        "IMAGEMILL_EVENT_JOB_ID": str(message.job_id),
    }


def _wait(tries: int) -> float | None:
    """Seconds until the next try, or None after the last one."""
    if tries > len(RETRY_SECONDS):
        return None
    return RETRY_SECONDS[tries - 1] * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret

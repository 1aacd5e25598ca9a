"""The dispatcher: keeps work moving whatever was lost. Any number may run at once.

Every round it releases what dead shifts held, finishes jobs, cancels overdue ones, folds the
tallies, and publishes tokens until enough of them wait for the work that is ready. Beside the
rounds it removes old jobs (`retention`) and sends notifications (`notifications`). All of it is
idempotent and fenced in SQL, so a second dispatcher costs a few queries and nothing else.
"""

import logging
import threading
from dataclasses import dataclass

from sqlalchemy.orm import Session

from imagemill.db.broker.wake_ups import SCORE_TASK, SHIFT_TASK, Tokens
from imagemill.db.database import Database
from imagemill.db.errors import BrokerError, DatabaseError
from imagemill.db.queries import tallies
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.jobs.overdue_jobs import cancel_overdue
from imagemill.db.queries.work import score_work, shifts
from imagemill.db.queries.work.claims import RetryPolicy
from imagemill.db.queries.work.due_images import due_images, idle_of_mixed_routes
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs import metrics
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from imagemill.scheduler_jobs.retention import Retention
from imagemill.scheduler_jobs.upload_retention import UploadRetention

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
"""The pause between two rounds: what losing every message costs."""

TOKENS_PER_WORKER = 2
"""Tokens kept waiting for each live worker of a route."""

MIN_TOKENS = 2
"""Tokens kept waiting where work is ready, even if no worker has been seen.

Where a job needs labels and some of the idle workers have them, every idle one gets a token.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round did."""

    rescued: int
    cancelled: int
    finished: int
    folded: int
    published: int

    @property
    def summary(self) -> str:
        """The round in words, empty if it changed nothing that people ask about."""
        parts = (
            (self.rescued, "lost images rescued"),
            (self.cancelled, "images cancelled"),
            (self.finished, "jobs finished"),
            (self.published, "wake-ups published"),
        )
        return ", ".join(f"{what}: {count:,}" for count, what in parts if count)


class Dispatcher:
    """Runs the rounds; a broker or database that is away is waited for, with a message."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._tokens = Tokens(settings)
        self._policy = RetryPolicy.from_settings(settings)
        self._retention = Retention.from_settings(database, settings)
        self._uploads = UploadRetention.from_settings(database, settings)
        self._notifier = Notifier(database, settings)
        self._broker_away = False

    def run_forever(self, stop: threading.Event) -> None:
        """Round after round until `stop` is set. Then nothing waits for the database any more."""
        self._database.wait_until(stop)
        log.info(
            "the dispatcher starts on %s: a round every %.0f s keeps workers busy, rescues lost "
            "images and finishes jobs",
            self._database.url,
            ROUND_SECONDS,
        )
        threads = [
            *self._start_retention(stop),
            *self._start_upload_retention(stop),
            self._start_notifier(stop),
        ]
        while not stop.is_set():
            try:
                self.run_once()
            except DatabaseError as error:
                log.warning("waiting for the database: %s", error)
            stop.wait(ROUND_SECONDS)
        for thread in threads:
            thread.join()
        self._tokens.close()
        log.info("the dispatcher stops")

    def run_once(self) -> Round:
        """One round, logged if it did anything that people ask about.

        A `DatabaseError` if the database stays away; a broker's absence is logged.
        """
        rescued = self._database.run(lambda session: shifts.rescue(session, policy=self._policy))
        cancelled, finished = self._database.run(self._finish)
        folded = self._database.run(tallies.fold)
        done = Round(
            rescued=rescued,
            cancelled=cancelled,
            finished=finished,
            folded=folded,
            published=self._top_up(),
        )
        metrics.ROUNDS.inc()
        metrics.RESCUED.inc(done.rescued)
        metrics.WAKE_UPS.inc(done.published)
        if done.summary:
            log.info("%s", done.summary)
        return done

    def send_notifications(self) -> None:
        """Try once to deliver every notification that is due, and wait for the results."""
        self._notifier.run_once()

    def _start_retention(self, stop: threading.Event) -> list[threading.Thread]:
        """Remove old jobs beside the rounds, which must not wait for that; if it is asked for."""
        if self._retention is None:
            return []
        log.info("jobs that ended %g days ago are removed", self._retention.days)
        thread = threading.Thread(target=self._retention.run_until, args=(stop,), name="retention")
        thread.start()
        return [thread]

    def _start_upload_retention(self, stop: threading.Event) -> list[threading.Thread]:
        """Remove old uploads beside the rounds, unless they are kept for good."""
        if self._uploads is None:
            return []
        run = self._uploads.run_until
        thread = threading.Thread(target=run, args=(stop,), name="upload retention")
        thread.start()
        return [thread]

    def _start_notifier(self, stop: threading.Event) -> threading.Thread:
        """Send notifications beside the rounds, because a receiver may be slow."""
        run = self._notifier.run_until
        thread = threading.Thread(target=run, args=(stop,), name="notifications")
        thread.start()
        return thread

    def _finish(self, session: Session) -> tuple[int, int]:
        audience = self._notifier.receivers.audience
        finished = lifecycle.finish_jobs(session, audience=audience)
        overdue = cancel_overdue(session)
        if overdue:
            log.warning("jobs whose deadline passed, cancelled: %s", overdue)
        return lifecycle.cancel_stragglers(session), finished

    def _top_up(self) -> int:
        """Publish what is missing of each route's tokens; how many that were."""
        due, workers, idle = self._database.run(_demand)
        published = 0
        try:
            for (task, route), work in due.items():
                wanted = max(MIN_TOKENS, TOKENS_PER_WORKER * workers.get(route, 0))
                wanted = min(wanted, work)
                if task == SHIFT_TASK:
                    wanted = max(wanted, idle.get(route, 0))
                missing = wanted - self._tokens.waiting(route, task=task)
                if missing > 0:
                    self._tokens.publish(route, missing, task=task)
                    published += missing
        except BrokerError as error:
            if not self._broker_away:
                log.warning("waiting for the broker: %s", error)
            self._broker_away = True
        else:
            if self._broker_away:
                log.info("the broker is back")
            self._broker_away = False
        return published


def _demand(
    session: Session,
) -> tuple[dict[tuple[str, str], int], dict[str, int], dict[str, int]]:
    """What may be claimed now by task and route; of each route, the workers and whom to wake."""
    # What waits out a retry wakes nobody: a shift could claim nothing of it.
    due = {SHIFT_TASK: due_images(session), SCORE_TASK: score_work.due_pieces(session)}
    by_route = {(task, route): n for task, routes in due.items() for route, n in routes.items()}
    return by_route, shifts.live_workers(session), idle_of_mixed_routes(session)

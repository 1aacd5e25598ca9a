"""Retention: the dispatcher removes jobs that ended long ago, where the settings say so."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError
from imagemill.db.labels import read_label
from imagemill.db.queries.jobs import removals
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.removal import Removed, remove_jobs

log = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which jobs are removed: those older than `days`, with `label`, without `keep`."""

    database: Database
    settings: Settings
    days: float
    label: tuple[str, str | None] | None
    keep: tuple[str, str | None] | None

    @classmethod
    def from_settings(cls, database: Database, settings: Settings) -> "Retention | None":
        """None if the settings ask for none. Raises `UsageError` for a bad label."""
        if settings.prune_days is None:
            return None
        label, keep = settings.prune_label, settings.prune_keep_label
        return cls(
            database=database,
            settings=settings,
            days=settings.prune_days,
            label=read_label(label) if label else None,
            keep=read_label(keep) if keep else None,
        )

    def run_once(self, stopped: Callable[[], bool] = lambda: False) -> Removed:
        """Remove what is due now, and finish what an earlier removal left."""
        with self.database.reading() as session:
            ended = removals.ended_jobs(
                session,
                older_than=timedelta(days=self.days),
                labels=[] if self.label is None else [self.label],
                keep=[] if self.keep is None else [self.keep],
            )
            due = [each.id for each in removals.plan(session, ended, only_over=True)]
        storage = open_storage(self.settings)
        return remove_jobs(self.database, storage, self.settings, due, stopped=stopped)

    def run_until(self, stop: threading.Event) -> None:
        """Remove what is due every hour, until `stop` is set. Trouble is logged."""
        while not stop.is_set():
            try:
                done = self.run_once(stop.is_set)
            except ImagemillError as error:
                log.warning("removing old jobs: %s", error)
            else:
                if done.jobs or done.files:
                    log.info("old jobs removed: %d, files deleted: %d", done.jobs, done.files)
            stop.wait(EVERY_SECONDS)

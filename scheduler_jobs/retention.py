"""Retention: the dispatcher removes jobs that ended long ago, where the settings say so."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError, SettingsError, UsageError
from imagemill.db.labels import read_label
from imagemill.db.queries.jobs import removals
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.removal import Removed, remove_jobs

log = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0


Label = tuple[str, str | None]


def pruned_labels(settings: Settings) -> tuple[Label | None, Label | None]:
    """The label of jobs that are removed, and that of jobs that stay. Raises `SettingsError`."""
    return (
        _label("IMAGEMILL_PRUNE_LABEL", settings.prune_label),
        _label("IMAGEMILL_PRUNE_KEEP_LABEL", settings.prune_keep_label),
    )


def _label(name: str, text: str | None) -> Label | None:
    try:
        return read_label(text) if text else None
    except UsageError as error:
        raise SettingsError(f"{name}: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which jobs are removed: those older than `days`, with `label`, without `keep`."""

    database: Database
    settings: Settings
    days: float
    label: Label | None
    keep: Label | None

    @classmethod
    def from_settings(cls, database: Database, settings: Settings) -> "Retention | None":
        """None if the settings ask for none. Raises `SettingsError` for a bad label."""
        if settings.prune_days is None:
            return None
        label, keep = pruned_labels(settings)
        return cls(
            database=database,
            settings=settings,
            days=settings.prune_days,
            label=label,
            keep=keep,
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

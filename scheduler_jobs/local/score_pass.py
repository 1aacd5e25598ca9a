"""Scoring here and now, without a broker: the worker's processes judge what is queued, and end."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagemill.db.database import Database
from imagemill.db.errors import ServiceError, UsageError
from imagemill.db.process.owned_folder import temporary_folder
from imagemill.db.queries.work import score_work, shifts
from imagemill.db.queries.work.claims import RetryPolicy
from imagemill.db.scorers import ScorerEntry
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.child_process import TetheredProcess

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_RESCUE_SECONDS = 1.0
_MOST_RESTARTS = 3
"""How often a process that was killed is started again before the pass gives up."""

_LOG_AS_JSON = {"IMAGEMILL_LOG_FORMAT": "json"}

_USAGE = 2
_SERVICE = 3


def score_here(
    database: Database,
    settings: Settings,
    job_ids: Collection[int],
    scorers: Collection[ScorerEntry],
    *,
    progress: Callable[[int, int], None],
) -> bool:
    """Judge what is queued for these jobs and scorers; False if Ctrl-C has interrupted it.

    `progress` is told how many images of how many are judged. A piece that another process holds
    is waited for, at most until that process's lease is over.

    Raises:
        UsageError: a scorer can't be used here.
        ServiceError: the processes keep ending.
    """
    policy = RetryPolicy.from_settings(settings)
    which: Mapping[str, Any] = {
        "route": settings.route,
        "known": [(each.name, each.version) for each in scorers],
    }
    total, next_round = None, 0.0
    with temporary_folder("imagemill-scores-") as folder, _Crew(settings, folder / "log") as crew:
        try:
            while (left := _waiting(database, job_ids, which)) > 0:
                total = total or left
                progress(total - left, total)
                if time.monotonic() >= next_round:
                    next_round = time.monotonic() + _RESCUE_SECONDS
                    database.run(lambda session: shifts.rescue(session, policy=policy))
                    due = database.run(lambda session: score_work.count_due(session, **which))
                    crew.keep_busy(due)
                time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            return False
    if total is not None:
        progress(total, total)
    return True


def _waiting(database: Database, job_ids: Collection[int], which: Mapping[str, Any]) -> int:
    with database.reading() as session:
        return score_work.waiting_images(session, job_ids, **which)


class _Crew:
    """The processes that judge: as many as there are cores for, and pieces to take."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings = settings
        self._log = log
        cores = len(os.sched_getaffinity(0)) // settings.threads
        self._most = settings.children or max(1, cores)
        self._processes: list[TetheredProcess] = []
        self._restarts = 0

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with suppress(KeyboardInterrupt):  # it gives back its work: a moment
                process.stop(seconds=self._settings.drain_seconds)

    def keep_busy(self, pieces: int) -> None:
        """Start processes for pieces that nobody has taken; see why others have ended."""
        for process in list(self._processes):
            status = process.poll()
            if status is not None:
                self._processes.remove(process)
                self._check(status)
        while pieces and len(self._processes) < min(self._most, pieces):
            self._processes.append(
                TetheredProcess(
                    [sys.executable, "-P", "-m", "imagemill.worker.process.score_pass"],
                    environment=os.environ | self._settings.environment() | _LOG_AS_JSON,
                    log=self._log,
                    death_signal=signal.SIGTERM,
                )
            )

    def _check(self, status: int) -> None:
        if status == 0:
            return
        said = next(self._errors(), f"status {status}")
        if status == _USAGE:
            raise UsageError(said)
        self._restarts += 1
        if status == _SERVICE or self._restarts > _MOST_RESTARTS:
            raise ServiceError(f"the scoring process ended: {said}")
        log.warning("a scoring process ended (status %s); starting another", status)

    def _errors(self) -> Iterator[str]:
        """What the log's errors say, newest first."""
        lines = self._log.read_text("utf-8", "replace").splitlines() if self._log.exists() else []
        for line in reversed(lines):
            with suppress(ValueError):  # a line that a library has printed
                told = json.loads(line)
                if told["level"] == "ERROR":
                    yield told["message"]

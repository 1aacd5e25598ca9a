"""Summaries of jobs, kept for a while: figures of a large job are a pass over all its images."""

import threading
import time
from typing import Any

from sqlalchemy.orm import Session

from imagemill.scheduler_jobs.pages.job_summary import (
    NO_FIGURES,
    figures_document,
    job_figures,
    job_report,
    summary_document,
)

LEAST_SECONDS = 5.0
"""How long figures are kept at least."""

_PATIENCE = 20.0
"""Figures are kept for so many times what it took to make them."""


class Summaries:
    """The summaries that were made last. Many threads may use it; one at a time makes one."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._figures: dict[int, tuple[dict[str, Any], float]] = {}
        self._lock = threading.Lock()

    def of(self, session: Session, job_id: int) -> dict[str, Any]:
        """A job as it is now, with figures that may be a little older."""
        with self._lock:
            figures, until = self._figures.get(job_id, ({}, 0.0))
            if time.monotonic() >= until:
                figures = self._made(session, job_id)
        return summary_document(job_report(session, job_id), figures, command=self._command)

    def without_figures(self, session: Session, job_id: int) -> dict[str, Any]:
        """A job as it is now, at once."""
        job = job_report(session, job_id)
        return summary_document(job, figures_document(NO_FIGURES), command=self._command)

    def forget(self, job_id: int) -> None:
        """Make the figures of a job anew next time, unless that takes long."""
        with self._lock:
            _, until = self._figures.get(job_id, ({}, 0.0))
            if until < time.monotonic() + LEAST_SECONDS:
                self._figures.pop(job_id, None)

    def _made(self, session: Session, job_id: int) -> dict[str, Any]:
        begun = time.monotonic()
        figures = figures_document(job_figures(session, job_id))
        took = time.monotonic() - begun
        kept = max(LEAST_SECONDS, _PATIENCE * took)
        self._figures[job_id] = (figures, time.monotonic() + kept)
        return figures

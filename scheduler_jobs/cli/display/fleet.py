"""The workers that are alive, and what waits for others, as `status` shows them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.orm import Session

from imagemill.db.queries.fleet import reports
from imagemill.db.queries.fleet.reports import JobReport, WorkerReport
from imagemill.db.queries.work.presence import live_shifts
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, ago, plural
from imagemill.scheduler_jobs.cli.display.unserved_jobs import (
    print_no_worker,
    print_too_large,
    print_unlabelled,
    print_unserved,
)

if TYPE_CHECKING:
    from imagemill.db.queries.fleet.memory import TooLarge


class Fleet(NamedTuple):
    """Who works, and what waits for a card with more memory than any of them has."""

    workers: list[WorkerReport]
    live_shifts: int
    too_large: "list[TooLarge]"


def look_at_fleet(session: Session, *, job_id: int | None = None) -> Fleet:
    """The fleet now, and the images of this job, or of all, that are too large for it."""
    # A job that has ended is shown without it.
    from imagemill.db.queries.fleet.memory import list_waiting_for_memory  # noqa: PLC0415  # see above

    return Fleet(
        reports.list_workers(session),
        live_shifts(session),
        list_waiting_for_memory(session, job_id=job_id),
    )


def print_fleet(fleet: Fleet, jobs: Sequence[JobReport]) -> None:
    """The workers, and why some of these jobs wait for others."""
    if fleet.workers:
        _print_workers(fleet)
    else:
        print_no_worker()
    print_unserved(jobs, fleet.workers)
    print_unlabelled(jobs, fleet.workers)
    print_too_large(fleet.too_large)


def _print_workers(fleet: Fleet) -> None:
    lost = sum(worker.lost for worker in fleet.workers)
    alive = plural(len(fleet.workers) - lost, "worker")
    shifts = plural(fleet.live_shifts, "shift")
    output.line(f"{alive} alive, {f'{lost:,} lost, ' if lost else ''}{shifts} at work")
    output.table(
        (
            Column(title="WORKER", whole=True),
            Column(title="DEVICE"),
            Column(title="ROUTE"),
            Column(title="DOES"),
            Column(title="SEEN"),
        ),
        (
            (
                worker.name,
                worker.device,
                worker.route,
                _does(worker),
                ago(worker.seen_at),
            )
            for worker in fleet.workers
        ),
    )


def _does(worker: WorkerReport) -> str:
    if worker.lost:
        return "lost"
    return "drains" if worker.draining else "renders" if worker.working else "waits"

"""Whether a plan's deadline would be met by the workers that are alive."""

from collections.abc import Sequence

from imagemill.db.database import Database
from imagemill.db.labels import has_all
from imagemill.db.queries.fleet.workers import list_fleet
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.deadlines import seconds_left
from imagemill.scheduler_jobs.submit.forecast import DeadlineCheck, check_deadline
from imagemill.scheduler_jobs.submit.plan import Plan
from imagemill.scheduler_jobs.submit.request import SubmissionRequest


def deadline_checks(
    planned: Plan, request: SubmissionRequest, database: Database | None
) -> list[DeadlineCheck]:
    """Who would meet the deadline; nothing where there is none, or nothing was measured."""
    if request.deadline is None or database is None:
        return []
    with database.reading() as session:
        workers = [
            worker
            for worker in list_fleet(session)
            if worker.route == request.route
            and worker.state in {"renders", "waits"}
            and has_all(worker.labels, request.needs)
        ]
    return check_deadline(planned.forecasts, seconds_left(request.deadline), workers)


def print_deadline(checks: Sequence[DeadlineCheck], request: SubmissionRequest) -> None:
    """Print for each device whether a plan's deadline would be met; nothing without a deadline."""
    if request.deadline is None:
        return
    output.line()
    left = output.duration(seconds_left(request.deadline))
    if not checks:
        output.line(f"deadline in {left}: no image of this kind was measured, so nobody knows")
    for each in checks:
        verdict = "in time" if each.in_time else "too few: the rest would be cancelled"
        output.line(
            f"deadline in {left}: needs {each.needed:,} of {each.device}, {each.alive:,} alive: "
            f"{verdict}"
        )

"""Why jobs wait although it is their turn: no worker has the route, the labels or the memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from imagemill.db.given_settings import is_given
from imagemill.db.labels import label_text
from imagemill.db.queries.fleet.reports import JobReport, WorkerReport, is_served, serves
from imagemill.db.states import JobState
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural

if TYPE_CHECKING:
    from imagemill.db.queries.fleet.memory import TooLarge


def print_no_worker() -> None:
    """Print that no worker is alive, and who works: a folder of `run` has no broker for one."""
    way = f"{output.offered('worker')} starts one"
    if not is_given("broker_url"):
        way = (
            "the same `imagemill run` goes on with its folder; where there is a broker, "
            "`imagemill worker` starts one"
        )
    output.line(f"no worker is alive; {way}")


def warn_unserved(session: Session, route: str, needs: Mapping[str, str]) -> None:
    """Print a warning on standard error if no live worker takes this route, or has the labels."""
    if not is_served(session, route, {}):
        output.line(
            f"no live worker takes the route {route}: nothing is rendered until "
            f"{_worker_of(route)} runs; one just started needs some seconds",
            error=True,
        )
    else:
        warn_unlabelled(session, route, needs)


def warn_unlabelled(session: Session, route: str, needs: Mapping[str, str]) -> None:
    """Print a warning on standard error if no live worker of the route has these labels."""
    if needs and not is_served(session, route, needs):
        output.line(
            f"no live worker has the labels {label_text(needs)}: nothing is rendered until one "
            "runs (`imagemill worker --label`)",
            error=True,
        )


def print_unserved(jobs: Sequence[JobReport], workers: Sequence[WorkerReport]) -> None:
    """Name the routes without a worker: their jobs wait for a worker, not for their turn."""
    served = {worker.route for worker in workers if not worker.draining}
    waiting = Counter(job.route for job in jobs if job.state == JobState.OPEN and job.counts.ready)
    for route, count in sorted(waiting.items()):
        if workers and route not in served:
            waits = "waits" if count == 1 else "wait"
            output.line(
                f"no worker takes the route {route}: {plural(count, 'job')} {waits}; "
                f"{_worker_of(route)} starts one"
            )


def print_unlabelled(jobs: Sequence[JobReport], workers: Sequence[WorkerReport]) -> None:
    """Name the jobs whose route has workers, none of which has the labels that they need."""
    for job in jobs:
        if not job.needs or job.state != JobState.OPEN or not job.counts.ready:
            continue
        on_route = any(serves(worker, job.route, {}) for worker in workers)
        if on_route and not any(serves(worker, job.route, job.needs) for worker in workers):
            output.line(
                f"job {job.id} ({job.name}) waits: no live worker on its route has the labels "
                f"{label_text(job.needs)}"
            )


def print_too_large(found: "Sequence[TooLarge]", *, error: bool = False) -> None:
    """Name the images that wait for a card with more memory, one line for each model and size."""
    for each in found:
        job = "" if each.job_id is None else f"job {each.job_id} ({each.job_name}): "
        verb = "waits" if each.images == 1 else "wait"
        if each.job_id is None:
            verb = "would wait"
        available = gibibytes(each.largest_bytes)
        needed = (
            f"more than {available}" if each.needed_bytes is None else gibibytes(each.needed_bytes)
        )
        output.line(
            f"{job}{plural(each.images, 'image')} of {each.model} {each.width}x{each.height} "
            f"{verb} for a card of {needed}; live workers have at most {available}",
            error=error,
        )


def _worker_of(route: str) -> str:
    """The command that starts a worker of this route, in backticks."""
    return output.offered("worker" + ("" if route == "default" else f" --route {route}"))


def gibibytes(count: int) -> str:
    """Bytes of memory for people."""
    return f"{count / 2**30:.1f} GiB"

"""`watch`: following a job until it ends."""

import sys
from time import sleep

import click

from imagemill.db.queries import shifts
from imagemill.db.queries.jobs import find_job
from imagemill.db.queries.reports import UNFINISHED
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.states import JobState
from imagemill.scheduler_jobs.cli import output
from imagemill.scheduler_jobs.cli.arguments import job_argument
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_FAILED
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.cli.output import plural
from imagemill.scheduler_jobs.cli.progress import ProgressView

ENDED = frozenset({JobState.FINISHED, JobState.CANCELLED, JobState.REJECTED})


@click.command()
@pass_invocation
@job_argument()
@click.option(
    "--every",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@output.json_option
@click.pass_context
def watch(
    ctx: click.Context, invocation: Invocation, job: str, every: float, as_json: bool
) -> None:
    """Follow a job until it ends.

    Shows images/s and the remaining time: a bar on a terminal, else a line every few seconds,
    with --json an object at every look, the last one final. Ctrl-C ends the watching, not the
    job. Exit code 1 if images are dead or the job was cancelled or rejected.

    \b
    Example:
      imagemill watch latest
    """
    with invocation.reading() as session:
        found = find_job(session, job)
        served = shifts.live_workers(session).get(found.route, 0) > 0
    if not served and found.state in UNFINISHED:
        output.line(
            f"no live worker takes the route {found.route}: nothing is rendered until "
            f"`imagemill worker --route {found.route}` runs",
            error=True,
        )
    if as_json:
        state, counts = _follow_as_json(invocation, found.id, every)
    else:
        state, counts = _follow(invocation, found.id, found.name, every)
        output.line(
            f"job {found.id} ({found.name}) {state}: {plural(counts.done, 'image')} done of "
            f"{counts.requested:,}"
            + (f", {counts.dead:,} dead" if counts.dead else "")
            + (f", {counts.cancelled:,} cancelled" if counts.cancelled else "")
        )
    if counts.dead or state in {JobState.CANCELLED, JobState.REJECTED}:
        ctx.exit(EXIT_FAILED)


def _follow(
    invocation: Invocation, job_id: int, name: str, every: float
) -> tuple[JobState, Counts]:
    with ProgressView(name, sys.stdout) as view:
        while True:
            state, counts = _look(invocation, job_id)
            view.update(counts, note=state if state != JobState.OPEN else "")
            if _ended(state, counts):
                return state, counts
            sleep(every)


def _follow_as_json(invocation: Invocation, job_id: int, every: float) -> tuple[JobState, Counts]:
    while True:
        state, counts = _look(invocation, job_id)
        ended = _ended(state, counts)
        output.emit(
            {
                "job": job_id,
                "state": state,
                "requested": counts.requested,
                "counts": counts,
                "ended": ended,
            }
        )
        sys.stdout.flush()
        if ended:
            return state, counts
        sleep(every)


def _look(invocation: Invocation, job_id: int) -> tuple[JobState, Counts]:
    with invocation.reading() as session:
        state = JobState(find_job(session, str(job_id)).state)
        counts = count_images(session, [job_id])[job_id]
    # An open job with nothing left is only waiting for the dispatcher to say so.
    over = state == JobState.OPEN and counts.pending == 0
    return JobState.FINISHED if over else state, counts


def _ended(state: JobState, counts: Counts) -> bool:
    if state == JobState.CANCELLED:
        return counts.leased == 0
    return state in ENDED

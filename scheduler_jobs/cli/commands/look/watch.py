"""`watch`: follows a job until it ends."""

import sys
from time import sleep
from typing import NamedTuple

import click

from imagemill.db.labels import labels_of
from imagemill.db.queries.fleet.idleness import Idle, why_idle
from imagemill.db.queries.fleet.memory import list_waiting_for_memory
from imagemill.db.queries.fleet.reports import UNFINISHED
from imagemill.db.queries.jobs.lifecycle import find_job, shown_state
from imagemill.db.queries.pictures.scores import ScoringReport, list_scoring
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.states import JobState
from imagemill.scheduler_jobs.cli.arguments import job_argument
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.display.progress import ProgressView, has_ended, note_of
from imagemill.scheduler_jobs.cli.display.unserved_jobs import print_too_large, warn_unserved
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_FAILED
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation


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
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object at every look; the last one has `ended`: true.",
)
@click.pass_context
def watch(
    ctx: click.Context, invocation: Invocation, job: str, every: float, as_json: bool
) -> None:
    """Follow a job until it ends.

    Shows images/s and the remaining time: a bar on a terminal, otherwise a line every few seconds;
    at the end, a line with the job's state and counts. Ctrl-C ends the watching, not the job. The
    exit code is 1 if images are dead or the job was cancelled or rejected.

    \b
    Example:
      imagemill watch latest
    """
    with invocation.reading() as session:
        found = find_job(session, job)
        if shown_state(found, count_images(session, [found.id])[found.id]) in UNFINISHED:
            warn_unserved(session, found.route, labels_of(found.needs))
            print_too_large(list_waiting_for_memory(session, job_id=found.id), error=True)
    if as_json:
        state, counts, *_ = _follow_as_json(invocation, found.id, found.name, every)
    else:
        state, counts, _, scoring = _follow(invocation, found.id, found.name, every)
        output.line(
            f"job {found.id} ({found.name}) {state}: {plural(counts.done, 'image')} done of "
            f"{counts.requested:,}"
            + (f", {counts.dead:,} dead" if counts.dead else "")
            + (f", {counts.cancelled:,} cancelled" if counts.cancelled else "")
            + (f"; {_left(scoring)}" if scoring else "")
        )
    if counts.dead or state in {JobState.CANCELLED, JobState.REJECTED}:
        ctx.exit(EXIT_FAILED)


class _Look(NamedTuple):
    state: JobState
    counts: Counts
    idle: Idle | None
    scoring: list[ScoringReport]


def _follow(invocation: Invocation, job_id: int, name: str, every: float) -> _Look:
    with ProgressView(name, sys.stdout) as view:
        while True:
            look = _look(invocation, job_id)
            state, counts, idle, scoring = look
            notes = (note_of(state, counts, idle), _left(scoring) if scoring else "")
            view.update(counts, note=" · ".join(filter(None, notes)))
            if has_ended(state, counts):
                return look
            sleep(every)


def _follow_as_json(invocation: Invocation, job_id: int, name: str, every: float) -> _Look:
    while True:
        look = _look(invocation, job_id)
        state, counts, idle, scoring = look
        ended = has_ended(state, counts)
        output.emit(
            {
                "job_id": job_id,
                "job_name": name,
                "state": state,
                "requested": counts.requested,
                "counts": counts,
                "waiting_for": None if idle is None else idle.name.lower(),
                "scoring": scoring,
                "ended": ended,
            }
        )
        sys.stdout.flush()
        if ended:
            return look
        sleep(every)


def _look(invocation: Invocation, job_id: int) -> _Look:
    with invocation.reading() as session:
        counts = count_images(session, [job_id])[job_id]
        job = find_job(session, str(job_id))
        idle = why_idle(session, job, counts)
        return _Look(shown_state(job, counts), counts, idle, list_scoring(session, job_id))


def _left(scoring: list[ScoringReport]) -> str:
    """`left to judge: 24 by sharpness, 3 by phash`, in images."""
    return "left to judge: " + ", ".join(f"{each.left:,} by {each.scorer}" for each in scoring)

"""`retry`, `pause`, `resume` and `cancel`: the commands that change a job."""

from collections.abc import Callable, Sequence

import click
from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.tallies import count_images
from imagemill.db.states import JobState
from imagemill.scheduler_jobs.cli.arguments import job_argument
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation


@click.command()
@pass_invocation
@job_argument()
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="CODE",
    help="Only images that are dead with this code; may be repeated.",
)
@output.json_option
def retry(invocation: Invocation, job: str, codes: Sequence[str], as_json: bool) -> None:
    """Render a job's dead images again.

    Each becomes ready again, in a new generation. Its history stays.

    \b
    Example:
      imagemill retry latest --code out_of_memory
    """

    def work(session: Session) -> tuple[int, str, int]:
        found = find_job(session, job)
        if found.state not in {JobState.OPEN, JobState.PAUSED, JobState.FINISHED}:
            raise UsageError(f"job {found.id} ({found.name}) is {found.state}: nothing to retry")
        return found.id, found.name, lifecycle.retry(session, found.id, codes=codes)

    job_id, name, count = invocation.database.run(work)
    if as_json:
        output.emit({"job_id": job_id, "job_name": name, "retried": count})
    elif count:
        output.line(f"job {job_id} ({name}): {plural(count, 'dead image')} ready again")
    else:
        output.line(f"job {job_id} ({name}): nothing to retry")


@click.command()
@pass_invocation
@job_argument()
@output.json_option
def pause(invocation: Invocation, job: str, as_json: bool) -> None:
    """Stop rendering a job until it is resumed.

    Workers give back its images within seconds; nothing is lost.

    \b
    Example:
      imagemill pause latest
    """
    _move(invocation, job, lifecycle.pause, target=JobState.PAUSED, as_json=as_json)


@click.command()
@pass_invocation
@job_argument()
@output.json_option
def resume(invocation: Invocation, job: str, as_json: bool) -> None:
    """Let a paused job be rendered again.

    \b
    Example:
      imagemill resume latest
    """
    _move(invocation, job, lifecycle.resume, target=JobState.OPEN, as_json=as_json)


@click.command()
@pass_invocation
@job_argument()
@output.json_option
def cancel(invocation: Invocation, job: str, as_json: bool) -> None:
    """Cancel the images of a job that are not rendered yet.

    Finished pictures stay. Images that a worker holds are cancelled within seconds, when it gives
    them back.

    \b
    Example:
      imagemill cancel latest
    """
    _move(
        invocation,
        job,
        lifecycle.cancel,
        target=JobState.CANCELLED,
        as_json=as_json,
        # Each call has its own transaction. If we are stopped, the dispatcher does the rest.
        go_on=lifecycle.cancel_stragglers,
    )


def _move(
    invocation: Invocation,
    reference: str,
    transition: Callable[[Session, int], bool],
    *,
    target: JobState,
    as_json: bool,
    go_on: Callable[[Session, int], int] | None = None,
) -> None:
    """Make one transition of a job. Does nothing if the job is already in the target state.

    Raises `UsageError` if its state does not allow the transition. `go_on` is called until it
    returns 0, to move more of its images.
    """

    with invocation.reading() as session:
        # The job is looked up once: on a retry, `latest` might be another job.
        found = find_job(session, reference)
    invocation.database.run(lambda session: transition(session, found.id))
    while go_on is not None and invocation.database.run(lambda session: go_on(session, found.id)):
        pass
    with invocation.reading() as session:
        state = find_job(session, str(found.id)).state
        counts = count_images(session, [found.id])[found.id]
    if state != target:
        raise UsageError(f"job {found.id} ({found.name}) is {state}: it can't become {target}")
    if as_json:
        output.emit({"job_id": found.id, "job_name": found.name, "state": state, "counts": counts})
        return
    already = "already " if found.state == target else ""
    output.line(
        f"job {found.id} ({found.name}) is {already}{state}: {counts.done:,} of "
        f"{plural(counts.requested, 'image')} done"
        + (f", {counts.cancelled:,} cancelled" if counts.cancelled else "")
    )

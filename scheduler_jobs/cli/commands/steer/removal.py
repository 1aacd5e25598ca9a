"""`rm` and `prune`: remove jobs with their pictures."""

from collections.abc import Sequence
from datetime import timedelta

import click
from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.db.labels import read_label
from imagemill.db.queries.jobs import removals
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.jobs.removals import Removal
from imagemill.db.storage.factory import open_storage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.cli.arguments import age, jobs_argument, labels_option
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.removal import Removed, remove_jobs

COLUMNS = (
    Column(title="JOB", right=True),
    Column(title="NAME", elastic=True),
    Column(title="STATE"),
    Column(title="IMAGES", right=True),
    Column(title="FILES", right=True),
    Column(title="SIZE", right=True),
    Column(title="SHARED", right=True),
)

yes_option = click.option(
    "--yes", is_flag=True, help="Remove them; without it, only say what would go."
)


@click.command()
@pass_invocation
@jobs_argument()
@yes_option
@output.json_option
def rm(invocation: Invocation, jobs: Sequence[str], yes: bool, as_json: bool) -> None:
    """Remove jobs with their images and files.

    Without --yes nothing is removed: the command says what would go. Files that other jobs use
    stay. A live job is refused; cancel it first. Exports and their records stay.

    \b
    Examples:
      imagemill rm 12 13
      imagemill rm 12 13 --yes
    """
    with invocation.reading() as session:
        found = {job.id: job for job in (find_job(session, each) for each in jobs)}
        planned = removals.plan(session, list(found.values()))
    _remove(invocation, planned, yes=yes, as_json=as_json)


@click.command()
@pass_invocation
@click.option(
    "--older-than",
    callback=age,
    required=True,
    metavar="AGE",
    help="Only jobs that ended longer ago: 30d, 12h, 2w.",
)
@labels_option
@click.option(
    "--keep-label",
    "keep",
    multiple=True,
    metavar="KEY=VALUE",
    help="No job with this label; may be repeated.",
)
@yes_option
@output.json_option
def prune(
    invocation: Invocation,
    older_than: timedelta,
    labels: Sequence[str],
    keep: Sequence[str],
    yes: bool,
    as_json: bool,
) -> None:
    """Remove jobs that ended long ago, as `rm` does.

    Without --yes nothing is removed: the command says what would go.

    \b
    Example:
      imagemill prune --older-than 30d --keep-label keep --yes
    """
    wanted, kept = ([read_label(text) for text in texts] for texts in (labels, keep))
    for key, value in wanted:
        if (key, value) in kept or (key, None) in kept:
            raise UsageError(f"--label {key} takes only jobs that --keep-label {key} keeps")

    def chosen(session: Session) -> Sequence[Job]:
        return removals.ended_jobs(session, older_than=older_than, labels=wanted, keep=kept)

    with invocation.reading() as session:
        # A cancelled job of which workers still hold images is left for the next time.
        planned = removals.plan(session, chosen(session), only_over=True)
    _remove(invocation, planned, yes=yes, as_json=as_json)


def _remove(
    invocation: Invocation, planned: Sequence[Removal], *, yes: bool, as_json: bool
) -> None:
    done = None
    if yes:
        storage = open_storage(invocation.settings)
        ids = [each.id for each in planned]
        done = remove_jobs(invocation.database, storage, invocation.settings, ids)
    if as_json:
        output.emit(
            {
                "jobs": planned,
                "images": sum(each.images for each in planned),
                "objects": sum(each.objects for each in planned),
                "size_bytes": sum(each.size_bytes for each in planned),
                "removed": yes,
                "files_deleted": 0 if done is None else done.files,
            }
        )
    elif planned or done is not None:
        _print(planned, done)
    else:
        output.line("no job to remove")


def _print(planned: Sequence[Removal], done: Removed | None) -> None:
    if planned:
        output.table(COLUMNS, map(_cells, planned))
    neighbours = sum(each.neighbours for each in planned)
    if done is None and neighbours:
        output.line(
            f"{plural(neighbours, 'picture')} of other jobs shared a recorded batch with these; "
            "once these are gone, they can't be rendered again bit for bit"
        )
    images = plural(sum(each.images for each in planned), "image")
    jobs = plural(len(planned), "job")
    if done is None:
        files = plural(sum(each.objects for each in planned), "file")
        size = output.size(sum(each.size_bytes for each in planned))
        output.line(f"nothing was removed; --yes removes {jobs} with {images} and {files} ({size})")
    else:
        files, size = plural(done.files, "file"), output.size(done.size_bytes)
        output.line(f"removed {jobs} with {images}; deleted {files} ({size})")


def _cells(each: Removal) -> tuple[object, ...]:
    return (
        each.id,
        each.name,
        each.state,
        f"{each.images:,}",
        f"{each.objects:,}",
        output.size(each.size_bytes),
        f"{each.shared_objects:,}" if each.shared_objects else None,
    )

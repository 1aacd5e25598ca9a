"""`verify` and `sweep`: compare the store with the database."""

import click

from imagemill.db.documents import document
from imagemill.db.errors import UsageError
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.settings import MOST_SECONDS
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs import store_check as upkeep
from imagemill.scheduler_jobs.cli.arguments import job_argument
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_FAILED
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation

SHOWN = 20


@click.command()
@pass_invocation
@job_argument()
@click.option(
    "--requeue", is_flag=True, help="Remove damaged files; render damaged and missing ones again."
)
@output.json_option
@click.pass_context
def verify(
    ctx: click.Context, invocation: Invocation, job: str, requeue: bool, as_json: bool
) -> None:
    """Check every file of a job against its recorded hash.

    The exit code is 1 if files are missing or damaged and not requeued.

    \b
    Example:
      imagemill verify latest --requeue
    """
    with invocation.reading() as session:
        found = find_job(session, job)
    storage = open_storage(invocation.settings)
    result = upkeep.verify(invocation.database, storage, found.id, requeue=requeue)
    if as_json:
        output.emit({"job_id": found.id, "job_name": found.name, **document(result)})
    else:
        for finding in result.findings[:SHOWN]:
            output.line(f"{finding.damage}: {storage.object_uri(finding.object_key)}")
        if len(result.findings) > SHOWN:
            output.line(f"… and {len(result.findings) - SHOWN:,} more (--json lists all)")
        bad = plural(len(result.findings), "file")
        output.line(f"{plural(result.checked, 'file')} checked, {bad} missing or damaged")
        if result.requeued:
            output.line(f"{plural(result.requeued, 'image')} ready to be rendered again")
    if result.findings and not requeue:
        ctx.exit(EXIT_FAILED)


@click.command()
@pass_invocation
@click.option("--delete", is_flag=True, help="Remove them; without it they are only listed.")
@click.option(
    "--older-than",
    type=click.FloatRange(0, MOST_SECONDS),
    metavar="SECONDS",
    help="Only files older than this (default: a day, IMAGEMILL_SWEEP_AGE_SECONDS).",
)
@output.json_option
def sweep(invocation: Invocation, delete: bool, older_than: float | None, as_json: bool) -> None:
    """Find stored files that belong to no image.

    A worker that was killed after storing and before recording leaves such a file, and so does
    the slower of two workers with the same image. Files younger than a day may still be recorded.

    \b
    Example:
      imagemill sweep --delete
    """
    settings = invocation.settings
    age = settings.sweep_age_seconds if older_than is None else older_than
    if age < settings.lease_seconds and delete:
        raise UsageError(
            f"--older-than {age:g}: a worker may be recording a file that young; "
            f"at least {settings.lease_seconds:g}, the seconds of a lease"
        )
    storage = open_storage(settings)
    result = upkeep.sweep(invocation.database, storage, older_than_seconds=age, delete=delete)
    if as_json:
        output.emit(document(result))
        return
    for item in (*result.strays, *result.leftovers)[:SHOWN]:
        output.line(f"{storage.object_uri(item.key)}  {output.size(item.size)}")
    output.line(
        f"{plural(len(result.strays), 'file')} without an image, "
        f"{plural(len(result.leftovers), 'unfinished file')}"
        + (f"; {result.deleted:,} deleted" if delete else "")
    )

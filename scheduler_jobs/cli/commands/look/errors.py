"""`errors`: dead images by code, and bad rows."""

import click

from imagemill.db.queries.fleet import reports
from imagemill.db.queries.fleet.reports import BadRowReport, CodeReport
from imagemill.db.queries.jobs.lifecycle import find_job, shown_state
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.queries.tallies import count_images
from imagemill.db.states import ImageState
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.cli.arguments import job_argument, whole
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation


@click.command()
@pass_invocation
@job_argument()
@click.option("--code", metavar="CODE", help="Only images that are dead with this code.")
@click.option("--key", metavar="ID", help="Only the row that has this id in the manifest.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="The most images, and the most rows, to list.",
)
@click.option("--after", type=int, callback=whole(0), metavar="ID", help="Go on after this image.")
@click.option("--after-row", type=int, callback=whole(0), metavar="N", help="Go on after this row.")
@output.json_option
def errors(
    invocation: Invocation,
    job: str,
    code: str | None,
    key: str | None,
    limit: int,
    after: int | None,
    after_row: int | None,
    as_json: bool,
) -> None:
    """Show the errors of a job.

    Lists its dead images, counted by code and then one by one with the reason, and the rows that
    --skip-bad-rows left out. With --json, `next_image` and `next_row` are the --after and
    --after-row of the next page.

    \b
    Example:
      imagemill errors latest --code worker_lost
    """
    with invocation.reading() as session:
        found = find_job(session, job)
        which = ImageFilter(job_id=found.id, state=ImageState.DEAD, code=code, key=key)
        state = shown_state(found, count_images(session, [found.id])[found.id])
        codes = reports.count_dead(session, found.id, key=key)
        dead = list_images(session, which, limit=limit + 1, after=after)
        rows = []
        if key is None:  # of a bad row nothing was kept but its text
            rows = reports.list_bad_rows(session, found.id, limit=limit + 1, after=after_row)
    next_image = dead[limit - 1].id if len(dead) > limit else None
    next_row = rows[limit - 1].number if len(rows) > limit else None
    dead, rows = dead[:limit], rows[:limit]
    if as_json:
        output.emit(
            {
                "job_id": found.id,
                "job_name": found.name,
                "state": state,
                "message": found.message,
                "codes": codes,
                "images": dead,
                "next_image": next_image,
                "bad_rows": rows,
                "next_row": next_row,
            }
        )
        return
    if found.message:
        output.line(f"job {found.id} ({found.name}) is {found.state}: {found.message}")
    elif not codes and not rows:
        of_row = "" if key is None else f" of the row {key}"
        output.line(f"job {found.id} ({found.name}) has no dead images{of_row} and no bad rows")
    _print_dead(found, codes, dead, next_image)
    _print_rows(found, rows, next_row)


def _print_dead(
    job: Job, codes: list[CodeReport], dead: list[ImageReport], next_image: int | None
) -> None:
    if not codes:
        return
    output.table(
        (Column(title="DEAD", right=True), Column(title="CODE")),
        ((f"{entry.images:,}", entry.code) for entry in codes),
    )
    output.line()
    output.table(
        (
            Column(title="IMAGE", right=True),
            Column(title="ROW", right=True),
            Column(title="KEY"),
            Column(title="CODE"),
            Column(title="PROMPT", elastic=True),
            Column(title="WHY", elastic=True),
        ),
        (
            (
                image.id,
                image.row,
                image.key,
                image.error_code,
                image.prompt,
                image.error_message,
            )
            for image in dead
        ),
    )
    if next_image is not None:
        output.line(f"more: --after {next_image}", error=True)
    output.line(f"{output.offered('show IMAGE')} has an image's history")
    output.line(f"{output.offered(f'retry {job.id}')} tries again")


def _print_rows(job: Job, rows: list[BadRowReport], next_row: int | None) -> None:
    if not rows:
        return
    output.line()
    output.line(f"{plural(job.bad_rows, 'bad row')} of {job.manifest} left out:")
    for row in rows:
        output.line(f"  {row.problem}")
    if next_row is not None:
        output.line(f"more: --after-row {next_row}", error=True)

"""`contact-sheet`: a job's pictures on one page."""

from pathlib import Path

import click

from imagemill.db.errors import UsageError
from imagemill.db.queries.jobs import find_job
from imagemill.db.states import ImageState
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.cli import output
from imagemill.scheduler_jobs.cli.arguments import job_argument
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.cli.output import plural
from imagemill.scheduler_jobs.pages.job_sheet import SETTLED, job_sheet

MOST_TILES = 5000
"""A page beyond this is too large for a PNG that anything opens."""


@click.command(name="contact-sheet")
@pass_invocation
@job_argument()
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("contact-sheet.png"),
    show_default=True,
    metavar="FILE",
    help="Where to write it: .png, .jpg or .webp.",
)
@click.option("--columns", type=click.IntRange(1, 100), default=6, show_default=True, metavar="N")
@click.option(
    "--tile",
    type=click.IntRange(32, 1024),
    default=192,
    show_default=True,
    metavar="PIXELS",
    help="The side of one picture on the page.",
)
@click.option(
    "--limit", type=click.IntRange(1, MOST_TILES), default=60, show_default=True, metavar="N"
)
@click.option(
    "--state",
    type=click.Choice([state.value for state in SETTLED]),
    help="Only images in this state; done and dead ones if left out.",
)
@output.json_option
def contact_sheet(
    invocation: Invocation,
    job: str,
    file: Path,
    columns: int,
    tile: int,
    limit: int,
    state: str | None,
    as_json: bool,
) -> None:
    """Put a job's pictures on one page.

    With their prompts under them; a dead image shows why it is dead.

    \b
    Example:
      imagemill contact-sheet latest -o sheet.png --columns 8 --limit 100
    """
    with invocation.reading() as session:
        found = find_job(session, job)
    page, count = job_sheet(
        invocation.database,
        open_storage(invocation.settings),
        found.id,
        limit=limit,
        columns=columns,
        tile_size=tile,
        states=SETTLED if state is None else (ImageState(state),),
    )
    try:
        page.save(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: can't be written: {error}") from None
    if as_json:
        output.emit({"job": found.id, "images": count, "file": str(file.absolute())})
    else:
        output.line(f"{file}: {plural(count, 'image')} of job {found.id} ({found.name})")

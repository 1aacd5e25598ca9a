"""`contact-sheet`: a job's pictures on pages."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from PIL import Image

from imagemill.db.errors import UsageError
from imagemill.db.process.whole_file import whole_file
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.states import ImageState
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.cli.arguments import job_argument, output_option
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.display.undrawn_characters import warn_undrawn
from imagemill.scheduler_jobs.cli.exit_codes import unwritable
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.pages.contact_sheet import head_height, page_width, row_height
from imagemill.scheduler_jobs.pages.job_grid import GridLayout, job_grids
from imagemill.scheduler_jobs.pages.job_sheet import (
    PAGE_IMAGES,
    SETTLED,
    Choice,
    Layout,
    Page,
    job_pages,
)

MOST_TILES = 100_000
_TILES = 60
"""Pictures on a sheet, if nobody says how many."""

_FORMATS = {".png": ("PNG", 1 << 20), ".jpg": ("JPEG", 65_500), ".jpeg": ("JPEG", 65_500)}
_FORMATS |= {".webp": ("WEBP", 16_383)}
"""The formats by suffix, with the longest side that a file may have."""

_MOST_PIXELS = 150_000_000
"""The most pixels of a page: half a gigabyte of memory, and fewer than viewers refuse as a bomb."""


@click.command(name="contact-sheet")
@pass_invocation
@job_argument()
@output_option("Where to write it: .png, .jpg or .webp; contact-sheet-JOB.png if left out.")
@click.option(
    "--columns",
    type=click.IntRange(1, 100),
    default=6,
    show_default=True,
    metavar="N",
    help="Pictures beside each other.",
)
@click.option(
    "--tile",
    type=click.IntRange(32, 1024),
    default=192,
    show_default=True,
    metavar="PIXELS",
    help="The side of one picture on the page.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_TILES),
    metavar="N",
    help="At most so many pictures, 1,000 a page: FILE-2, FILE-3, …; 60, or all of a grid.",
)
@click.option("--x", metavar="PARAMETER", help="A grid: a column for each value, as sampler.")
@click.option("--y", metavar="PARAMETER", help="A grid: a row for each value, as guidance_scale.")
@click.option("--key", metavar="ID", help="Only the row that has this id in the manifest.")
@click.option("--where", metavar="CONDITION", help="Only these: \"steps > 20 and mood = 'calm'\".")
@click.option(
    "--state",
    type=click.Choice([state.value for state in SETTLED]),
    help="Only images in this state; done and dead ones if left out.",
)
@output.json_option
def contact_sheet(
    invocation: Invocation,
    /,
    job: str,
    file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Put a job's pictures on one page.

    Shows their ids, their prompts and the values in which they differ. A dead image shows why it is
    dead. More than 1,000 pictures make several pages. With --x, --y or both, a page is a grid with
    these axes, one for each prompt and each combination of the other parameters. Images that are
    no grid in them are refused.

    \b
    Example:
      imagemill contact-sheet latest -o sheet.png --columns 8 --limit 100
      imagemill contact-sheet latest --x sampler --y guidance_scale
    """
    if file is not None:
        images_a_page(file, options)  # refused before anything is looked up
    with invocation.reading() as session:
        found = find_job(session, job)
    file = file or Path(f"contact-sheet-{found.id}.png")
    pages = _pages(invocation, found.id, file, options)
    written, count = [], 0
    undrawn: set[str] = set()
    for place, page in _placed(pages, file):
        save_sheet(page.picture, place)
        written.append(place)
        count += page.images
        undrawn |= page.undrawn
        if not as_json:
            output.line(f"{place}: {plural(page.images, 'image')} of job {found.id} ({found.name})")
    warn_undrawn(undrawn)
    if as_json:
        files = [str(place.absolute()) for place in written]
        output.emit(
            {
                "job_id": found.id,
                "job_name": found.name,
                "images": count,
                "output": files[0],
                "outputs": files,
            }
        )


def _pages(
    invocation: Invocation, job_id: int, file: Path, options: Mapping[str, Any]
) -> Iterator[Page]:
    """The pages that the options ask for: grids, or pictures one after another."""
    state, tile = options["state"], options["tile"]
    page_images = images_a_page(file, options)
    database, storage = invocation.database, open_storage(invocation.settings)
    chosen = Choice(
        states=SETTLED if state is None else (ImageState(state),),
        key=options["key"],
        where=options["where"],
    )
    if options["x"] is None and options["y"] is None:
        layout = Layout(columns=options["columns"], tile_size=tile, page_images=page_images)
        limit = options["limit"] or _TILES
        return job_pages(database, storage, job_id, limit=limit, layout=layout, choice=chosen)
    axes = GridLayout(x=options["x"], y=options["y"], tile_size=tile)
    limit = options["limit"] or MOST_TILES
    return job_grids(database, storage, job_id, axes, limit=limit, choice=chosen)


def images_a_page(file: Path, options: Mapping[str, Any]) -> int:
    """The number of images on a page. Raises `UsageError` if such a page is impossible."""
    columns, tile = int(options["columns"]), int(options["tile"])
    if file.suffix.lower() not in _FORMATS:
        raise UsageError(f"{file}: a sheet can be written as {', '.join(_FORMATS)}")
    name, longest = _FORMATS[file.suffix.lower()]
    width = page_width(columns, tile)
    if width > longest:
        raise UsageError(
            f"{file}: {columns} columns of {tile} pixels are {width:,} pixels wide, and "
            f"{name} takes {longest:,}; use fewer --columns, a smaller --tile, or .png"
        )
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: can't be written: there is no folder {file.absolute().parent}")
    height = min(longest, _MOST_PIXELS // width) - head_height()
    return min(PAGE_IMAGES, max(1, height // row_height(tile)) * columns)


def _placed(pages: Iterator[Page], file: Path) -> Iterator[tuple[Path, Page]]:
    for page in pages:
        number = "" if page.number == 1 else f"-{page.number}"
        yield file.with_name(f"{file.stem}{number}{file.suffix}"), page


def save_sheet(picture: Image.Image, file: Path) -> None:
    """Write a page. Raises an error that names the file if that is impossible."""
    try:
        with whole_file(file) as stream:
            picture.save(stream, _FORMATS[file.suffix.lower()][0])
    except (OSError, ValueError) as error:
        raise unwritable(file, error) from None

"""`report` and `gallery`: jobs as HTML pages, in a file or live."""

import os
import shlex
from pathlib import Path

import click

from imagemill.db.errors import SettingsError, UsageError
from imagemill.db.process.logs import GALLERY_TOKEN
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.tallies import Counts
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.cli.arguments import job_argument, listen_options, output_option
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.display.progress import ProgressView
from imagemill.scheduler_jobs.cli.exit_codes import unwritable
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.pages.report import ReportOptions, ReportResult, write_report

_SUFFIXES = (".html", ".htm")
_LEAST_TOKEN = 16


@click.command()
@pass_invocation
@job_argument()
@output_option("Where to write it; report-JOB.html if left out.")
@click.option(
    "--max-images",
    type=click.IntRange(0, 100_000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="At most so many images in its gallery; the figures count all.",
)
@click.option(
    "--thumbnail",
    type=click.IntRange(32, 1024),
    default=192,
    show_default=True,
    metavar="PIXELS",
    help="The longest side of the small copies in it.",
)
@output.json_option
def report(
    invocation: Invocation,
    job: str,
    file: Path | None,
    max_images: int,
    thumbnail: int,
    as_json: bool,
) -> None:
    """Write a job as one HTML page: figures, failures and a gallery.

    The page needs no network and no server. It holds small copies of the pictures, at most 64 MB
    of them; where it stays beside the picture files, it shows those as well.

    \b
    Example:
      imagemill report latest -o report.html
    """
    if file is not None:
        _check_place(file)  # refused before anything is looked up
    with invocation.reading() as session:
        found = find_job(session, job)
    file = file or Path(f"report-{found.id}.html")
    _check_place(file)
    with ProgressView("report") as view:
        result = _written(invocation, found.id, file, max_images, thumbnail, view)
    if as_json:
        output.emit(
            {
                "job_id": found.id,
                "job_name": found.name,
                "output": str(file.absolute()),
                "images": result.images,
                "thumbnails": result.thumbnails,
                "requested": result.requested,
                "size_bytes": result.size_bytes,
            }
        )
        return
    output.line(
        f"{file}: {_extent(result)} of job {found.id} ({found.name}), "
        f"{output.size(result.size_bytes)}"
    )
    if result.images < result.requested:
        output.line(
            f"the gallery has the first {plural(result.images, 'image')} of {result.requested:,}; "
            "--max-images N takes more",
            error=True,
        )


@click.command()
@pass_invocation
@listen_options(port=8420)
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Allow a --host that other machines reach; without TLS, they all see the token.",
)
@output.json_first_option
def gallery(
    invocation: Invocation, host: str, port: int, allow_remote: bool, as_json: bool
) -> None:
    """Serve jobs and their pictures to a browser, live.

    Prints the address to open; it has a token that nobody else knows. Runs until Ctrl-C. A token
    in IMAGEMILL_GALLERY_TOKEN is taken as it is, and not printed.

    \b
    Example:
      imagemill gallery
    """
    # Imported here: no other command needs a web server.
    from imagemill.scheduler_jobs.gallery.access import Keys  # noqa: PLC0415
    from imagemill.scheduler_jobs.gallery.app import gallery_app  # noqa: PLC0415
    from imagemill.scheduler_jobs.web_server import (  # noqa: PLC0415
        address,
        is_loopback,
        listen,
        names_of,
        serve,
    )

    if not is_loopback(host) and not allow_remote:
        raise UsageError(
            f"--host {host}: other machines could reach it; add --allow-remote if they may"
        )
    given = os.environ.get(GALLERY_TOKEN)
    if given is not None and len(given) < _LEAST_TOKEN:
        raise SettingsError(
            f"{GALLERY_TOKEN}: at least {_LEAST_TOKEN} characters, so that nobody guesses it"
        )
    database, storage = invocation.database, open_storage(invocation.settings)
    with listen(host, port) as listening:
        token = {} if given is None else {"token": given}
        keys = Keys(hosts=names_of(host), port=listening.getsockname()[1], **token)
        app = gallery_app(database, storage, keys=keys, command=command_prefix(invocation))
        url = address(host, keys.port, keys.token if given is None else f"${GALLERY_TOKEN}")

        def ready() -> None:
            if as_json:
                output.emit({"url": url, "host": host, "port": keys.port})
            else:
                output.line(f"the gallery is at {url}")
                output.line("Ctrl-C ends it", error=True)

        serve(app, listening, ready=ready)


def _written(
    invocation: Invocation,
    job_id: int,
    file: Path,
    max_images: int,
    thumbnail: int,
    view: ProgressView,
) -> ReportResult:
    options = ReportOptions(
        max_images=max_images,
        thumbnail_size=thumbnail,
        command=command_prefix(invocation),
    )
    try:
        return write_report(
            invocation.database,
            open_storage(invocation.settings),
            job_id,
            file,
            options=options,
            progress=lambda done, total: view.update(Counts(done=done, ready=total - done)),
        )
    except OSError as error:
        raise unwritable(file, error) from None


def command_prefix(invocation: Invocation) -> str:
    """How a shell calls us on the same database: `imagemill --home out`."""
    home = invocation.home
    return "imagemill" if home is None else f"imagemill --home {shlex.quote(str(home))}"


def _extent(result: ReportResult) -> str:
    if result.images == result.requested:
        return plural(result.images, "image")
    return f"{result.images:,} of {plural(result.requested, 'image')}"


def _check_place(file: Path) -> None:
    if file.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{file}: a report is written as {' or '.join(_SUFFIXES)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: can't be written: there is no folder {file.absolute().parent}")

"""`push`: an export goes to the Hugging Face Hub."""

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.exports import find_export
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.exports.push import push as push_export


@click.command()
@pass_invocation
@click.argument("export", metavar="EXPORT")
@click.argument("repository", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Only for you, if the repository is created now.")
@click.option(
    "--branch",
    "--revision",
    "branch",
    default="main",
    show_default=True,
    metavar="NAME",
    help="Of the repository; it is created if it is missing.",
)
@click.option(
    "--delete-others", is_flag=True, help="Remove files there that are not of this export."
)
@output.json_option
def push(
    invocation: Invocation,
    /,
    export: str,
    repository: str,
    private: bool,
    branch: str,
    delete_others: bool,
    as_json: bool,
) -> None:
    """Upload an export to the Hugging Face Hub.

    EXPORT is its folder, its number in `imagemill exports`, or `latest`. Its files are compared
    with its SHA256SUMS before. Only what the repository does not have goes up, so an interrupted
    push goes on when the same command runs again. The token is HF_TOKEN, or that of
    `hf auth login`.

    \b
    Example:
      imagemill push my-set me/my-set --private
    """
    namespace, _, name = repository.partition("/")
    if not namespace or not name or "/" in name:
        raise UsageError(f"{repository!r}: expected a repository as user/name")
    folder = _folder(invocation, export)
    bar = click.progressbar(
        length=0, label="push", file=sys.stderr, show_pos=True, hidden=not sys.stderr.isatty()
    )
    with ExitStack() as shown:

        def show(there: int, total: int) -> None:
            if bar.length == 0:  # only now: an error before has no bar above it
                shown.enter_context(bar)
            bar.length = total
            bar.update(there - bar.pos)

        result = push_export(
            folder,
            repository,
            branch=branch,
            private=private,
            delete_others=delete_others,
            progress=show,
        )
    if as_json:
        output.emit({"push": result})
        return
    parts = [f"{plural(result.uploaded, 'file')} uploaded"]
    if result.uploaded:
        parts[0] += f" ({output.size(result.uploaded_bytes)})"
    if result.present:
        parts.append(f"{result.present:,} there already")
    if result.deleted:
        parts.append(f"{result.deleted:,} removed")
    output.line(f"{result.url}: {', '.join(parts)}")


def _folder(invocation: Invocation, export: str) -> Path:
    """The folder of an export. The database is asked only where no folder is named so."""
    folder = Path(export).expanduser()
    if folder.is_dir():
        return folder
    if export != "latest" and not export.isdecimal():
        raise UsageError(f"{export}: no such folder, and no number of an export")
    with invocation.reading() as session:
        found = find_export(session, export)
    if "://" in found.target:
        raise UsageError(
            f"export {found.id} is in a bucket ({found.target}); push takes a folder: export it to "
            "one, or copy it down and push the copy"
        )
    if not Path(found.target).is_dir():
        raise UsageError(f"export {found.id}: its folder {found.target} is not there")
    return Path(found.target)

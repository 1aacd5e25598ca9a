"""`backup` and `restore`: the database and its files, taken away and brought back."""

from datetime import datetime
from pathlib import Path

import click

from imagemill.db.documents import document
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.backup.record import RECORD, BackupRecord
from imagemill.scheduler_jobs.backup.restoration import Restoration
from imagemill.scheduler_jobs.backup.restoration import restore as bring_back
from imagemill.scheduler_jobs.backup.snapshot import make_backup
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_FAILED
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation

SHOWN = 20


@click.command()
@pass_invocation
@click.argument("to", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--objects", is_flag=True, help="Copy the pictures too, not only their digests.")
@output.json_option
@click.pass_context
def backup(
    ctx: click.Context, invocation: Invocation, to: Path, objects: bool, as_json: bool
) -> None:
    """Copy the database into a new folder, with a list of all pictures.

    Workers may go on meanwhile: the copy is one moment. No password is in it. The exit code is 1
    if pictures were to be copied that the store does not have as recorded.

    \b
    Example:
      imagemill backup /mnt/backups/monday --objects
    """
    storage = open_storage(invocation.settings)
    made = make_backup(invocation.database, storage, invocation.settings, to, objects=objects)
    if as_json:
        output.emit({"folder": str(to), **document(made)})
    else:
        record = made.record
        output.line(
            f"{to}: {plural(record.jobs, 'job')}, {plural(record.images, 'image')}, "
            f"{plural(record.objects, 'file')} "
            f"({'copied' if objects else 'listed, not copied'}), as of {_at(record)}"
        )
        _show_missing(made.missing, "not in the store as recorded")
    if made.missing:
        ctx.exit(EXIT_FAILED)


@click.command()
@pass_invocation
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@output.json_option
@click.pass_context
def restore(ctx: click.Context, invocation: Invocation, folder: Path, as_json: bool) -> None:
    """Bring a backup back, into a database that has not been used.

    The settings name the database and the store. Pictures that the backup has are put into the
    store; nothing there is overwritten. The exit code is 1 if pictures are missing afterwards.

    \b
    Example:
      imagemill restore /mnt/backups/monday
    """
    restored = bring_back(folder, invocation.settings)
    if as_json:
        output.emit({"folder": str(folder), **document(restored)})
    else:
        record = restored.record
        output.line(
            f"restored {plural(restored.jobs, 'job')}, {plural(restored.images, 'image')}, "
            f"{plural(restored.objects, 'file')}, as of {_at(record)}; schema {restored.revision}"
        )
        _show_other_counts(restored)
        _show_missing(restored.missing, "missing; `imagemill verify JOB --requeue` renders again")
    if restored.missing:
        ctx.exit(EXIT_FAILED)


def _show_other_counts(restored: Restoration) -> None:
    """Say where the backup's record counts otherwise than its database."""
    for name in ("jobs", "images", "objects"):
        said, found = getattr(restored.record, name), getattr(restored, name)
        if said != found:
            output.line(
                f"warning: {RECORD} says {said:,} {name}, its database has {found:,}", error=True
            )


def _at(record: BackupRecord) -> str | None:
    return output.moment(datetime.fromisoformat(record.at))


def _show_missing(keys: tuple[str, ...], what: str) -> None:
    for key in keys[:SHOWN]:
        output.line(f"missing: {key}")
    if len(keys) > SHOWN:
        output.line(f"… and {len(keys) - SHOWN:,} more (--json lists all)")
    if keys:
        output.line(f"{plural(len(keys), 'file')} {what}")

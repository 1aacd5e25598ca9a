"""`import`: an exported set becomes jobs of this database."""

from collections.abc import Sequence
from pathlib import Path

import click

from imagemill.db.labels import read_labels
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.exports.exported_set import export_folder
from imagemill.scheduler_jobs.imports import import_export


@click.command("import")
@pass_invocation
@click.argument("export")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label for the jobs; may be repeated.",
)
@output.json_option
def import_command(
    invocation: Invocation, export: str, labels: Sequence[str], as_json: bool
) -> None:
    """Take an exported set into this database and store.

    EXPORT is the folder of a complete export in the layout parquet, imagefolder or webdataset, or
    its s3://bucket/prefix, with its files as they were rendered. Every file is compared with its
    SHA-256 before the first one is stored. Importing the same export again adds nothing.

    \b
    Example:
      imagemill import set --home other
      imagemill import s3://bucket/set
    """
    given = read_labels(labels)
    storage = open_storage(invocation.settings)
    with export_folder(export, invocation.settings) as folder:
        done = import_export(invocation.database, storage, folder, labels=given)
    if as_json:
        place = export if "://" in export else str(Path(export).expanduser().absolute())
        output.emit({"jobs": done, "export": place})
        return
    for job in done:
        if job.created:
            output.line(
                f"job {job.job_id} ({job.job_name}): {plural(job.images, 'image')} imported, "
                f"{plural(job.files, 'new file')}"
            )
        else:
            output.line(f"nothing to do: job {job.job_id} ({job.job_name}) is here already")

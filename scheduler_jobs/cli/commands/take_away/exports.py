"""`export` and `exports`: taking a job's pictures away, in the layouts that other tools read."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from imagemill.db.errors import UsageError
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.exports import list_exports
from imagemill.db.queries.tallies import Counts
from imagemill.db.states import Outcome
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, ago, plural
from imagemill.scheduler_jobs.cli.display.progress import ProgressView
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.exports.export import ExportOptions
from imagemill.scheduler_jobs.exports.formats import FORMATS
from imagemill.scheduler_jobs.exports.pictures import read_form
from imagemill.scheduler_jobs.exports.run import run_export
from imagemill.scheduler_jobs.exports.selection import Selection, read_splits
from imagemill.scheduler_jobs.exports.target import open_target

_FORMAT_HELP = "; ".join(f"{name}: {layout.title}" for name, layout in FORMATS.items())


@click.command()
@pass_invocation
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option(
    "--format",
    "export_format",
    type=click.Choice(list(FORMATS)),
    metavar="FORMAT",
    required=True,
    help=f"The layout. {_FORMAT_HELP}.",
)
@click.option(
    "--to",
    required=True,
    metavar="PLACE",
    help="A new folder, or s3://bucket/prefix.",
)
@click.option("--where", metavar="CONDITION", help="Only these: \"steps > 20 and mood = 'calm'\".")
@click.option(
    "--outcome",
    "outcomes",
    type=click.Choice([outcome.value for outcome in Outcome]),
    multiple=True,
    default=[Outcome.OK.value],
    show_default=True,
    help="Which outcomes; may be given more than once.",
)
@click.option("--split", metavar="PARTS", help="Parts by prompt: train=0.9,test=0.1.")
@click.option("--best", type=click.IntRange(1), metavar="N", help="Only so many of each row.")
@click.option("--by", metavar="COLUMN", help="What --best goes by; the larger the better.")
@click.option(
    "--name", metavar="TEMPLATE", help="Names of files: {row_key}/{sample_index:03}-{seed}."
)
@click.option("--shard-size", type=click.IntRange(1), metavar="N", help="Images in a shard.")
@click.option(
    "--resize", type=click.IntRange(1, 16384), metavar="PIXELS", help="The longest side at most."
)
@click.option(
    "--format-images", type=click.Choice(["png", "jpeg", "webp"]), help="Re-encode the pictures."
)
@click.option(
    "--quality", type=click.IntRange(1, 100), metavar="N", help="Of JPEG and WebP; 95 if not given."
)
@click.option(
    "--watermark", metavar="TEXT", help="Hide a text of up to 16 bytes in the pixels of the copies."
)
@click.option(
    "--c2pa",
    type=click.Path(path_type=Path),
    metavar="CERT",
    help="Sign the copies: a certificate chain (PEM).",
)
@click.option(
    "--c2pa-key",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="The private key of --c2pa (PEM, PKCS#8).",
)
@click.option(
    "--formulas", is_flag=True, help="Leave texts that a spreadsheet would run as they are."
)
@output.json_option
def export(
    invocation: Invocation,
    /,
    jobs: tuple[str, ...],
    export_format: str,
    to: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write jobs' pictures in a layout that other tools read.

    Files are verified as they pass. An interrupted export goes on where it stopped when the same
    command runs again, and gives the same bytes.

    \b
    Example:
      imagemill export latest --format webdataset --to shards
    """
    with invocation.reading() as session:
        ids = [find_job(session, job).id for job in jobs]
    selection = _selection(list(dict.fromkeys(ids)), options)
    how = ExportOptions(
        form=read_form(
            options["resize"],
            options["format_images"],
            options["quality"],
            watermark=options["watermark"],
            c2pa=(options["c2pa"], options["c2pa_key"]),
        ),
        name=options["name"],
        shard_size=options["shard_size"],
        formulas=options["formulas"],
    )
    settings = invocation.settings
    with ProgressView("export") as view:
        result = run_export(
            invocation.database,
            open_storage(settings),
            open_target(to, settings),
            export_format=export_format,
            selection=selection,
            options=how,
            progress=lambda done, total: view.update(Counts(done=done, ready=total - done)),
            registry=load_registry(settings),
        )
    if as_json:
        output.emit({"export": result})
        return
    again = ", already there" if result.repeated else ""
    failed = f", {plural(result.failures, 'row')} without a picture" if result.failures else ""
    images = plural(result.images, "image")
    output.line(f"{result.target}: {images}{failed} as {export_format}{again}")


def _selection(job_ids: Sequence[int], options: Mapping[str, Any]) -> Selection:
    if (options["best"] is None) != (options["by"] is None):
        raise UsageError("--best N and --by COLUMN go together")
    return Selection(
        jobs=job_ids,
        outcomes=[Outcome(outcome) for outcome in options["outcomes"]],
        where=options["where"],
        best=options["best"],
        by=options["by"],
        splits=() if options["split"] is None else read_splits(options["split"]),
    )


@click.command()
@pass_invocation
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    metavar="N",
    help="The most exports to list.",
)
@output.json_option
def exports(invocation: Invocation, limit: int, as_json: bool) -> None:
    """List exports, newest first.

    The digest of an export is the same wherever the same images were exported in the same way.

    \b
    Example:
      imagemill exports
    """
    with invocation.reading() as session:
        found = list_exports(session, limit=limit)
    if as_json:
        output.emit({"exports": found})
        return
    if not found:
        output.line("no exports")
        return
    output.table(
        (
            Column(title="EXPORT", right=True),
            Column(title="FORMAT"),
            Column(title="IMAGES", right=True),
            Column(title="STATE"),
            Column(title="STARTED"),
            Column(title="DIGEST"),
            Column(title="TO", whole=True),
        ),
        (
            (
                each.id,
                each.format,
                f"{each.images:,}",
                "finished" if each.finished_at else "unfinished",
                ago(each.created_at),
                each.digest[:8],
                _near(each.target),
            )
            for each in found
        ),
    )


def _near(target: str) -> str:
    """On a terminal, a folder below the working folder is shown from there."""
    here = Path.cwd()
    near = sys.stdout.isatty() and Path(target).is_relative_to(here)
    return str(Path(target).relative_to(here)) if near else target

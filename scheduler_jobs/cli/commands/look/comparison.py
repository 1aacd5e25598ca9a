"""`diff`: what differs between two jobs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from imagemill.db.documents import document
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.comparison import Compared
from imagemill.db.storage.factory import open_storage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.cli.arguments import storable_reference
from imagemill.scheduler_jobs.cli.commands.look.sheets import images_a_page, save_sheet
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_FAILED
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.comparison import Difference, PixelDifference, Totals, compare
from imagemill.scheduler_jobs.pages.difference_sheet import COLUMNS, difference_sheet

TILE = 256
SHOWN_CHARACTERS = 60

TABLE = (
    Column(title="ROW", elastic=True),
    Column(title="SAMPLE", right=True),
    Column(title="A", right=True),
    Column(title="B", right=True),
    Column(title="WHAT DIFFERS", elastic=True),
    Column(title="PIXELS"),
)


@click.command()
@pass_invocation
@click.argument("job", metavar="A", callback=storable_reference)
@click.argument("other", metavar="B", callback=storable_reference)
@click.option(
    "--limit",
    type=click.IntRange(0, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="The most differences to list, and pairs on the sheet.",
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write pictures that differ side by side: .png, .jpg or .webp.",
)
@click.option("--quick", is_flag=True, help="Compare pixels by their hashes; read no file.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object for each difference; the last one has the totals.",
)
@click.pass_context
def diff(
    ctx: click.Context,
    invocation: Invocation,
    job: str,
    other: str,
    limit: int,
    sheet: Path | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Say what differs between two jobs: rows, parameters, pixels.

    Images are matched by the row's key (its own id, else its prompt) and the sample. The exit code
    is 1 if anything differs.

    \b
    Example:
      imagemill diff 12 13 --sheet apart.png
    """
    pairs = (
        0
        if sheet is None
        else min(limit, images_a_page(sheet, {"columns": COLUMNS, "tile": TILE}) // COLUMNS)
    )
    with invocation.reading() as session:
        a, b = find_job(session, job), find_job(session, other)
    storage = None if quick and sheet is None else open_storage(invocation.settings)
    totals = Totals()
    found = compare(
        invocation.database, None if quick else storage, a.id, b.id, totals, listed_b=limit
    )
    listed, drawn = _told(found, limit, pairs, as_json=as_json)
    if sheet is not None and storage is not None:
        title = f"A: job {a.id} ({a.name}), B: job {b.id} ({b.name})"
        save_sheet(difference_sheet(drawn, storage, tile_size=TILE, title=title), sheet)
    if as_json:
        output.emit(
            {
                "a": {"job_id": a.id, "job_name": a.name},
                "b": {"job_id": b.id, "job_name": b.name},
                **document(totals),
                "sheet": None if sheet is None else str(sheet.absolute()),
            }
        )
    else:
        _print(a, b, totals, listed, sheet)
    if totals.differ:
        ctx.exit(EXIT_FAILED)


def _told(
    found: Iterator[Difference], limit: int, pairs: int, *, as_json: bool
) -> tuple[list[Difference], list[Difference]]:
    """The first differences, and the first pairs of pictures; all are walked through."""
    listed: list[Difference] = []
    drawn: list[Difference] = []
    for difference in found:
        if len(drawn) < pairs and difference.pixels is not None:
            drawn.append(difference)
        if as_json:
            output.emit(_document(difference))
        elif len(listed) < limit:
            listed.append(difference)
    return listed, drawn


def _document(difference: Difference) -> dict[str, Any]:
    one = difference.a or difference.b
    assert one is not None
    a, b = difference.a, difference.b
    pixels = difference.pixels
    return {
        "row_key": one.row_key,
        "sample_index": one.place[2],
        "a": None if a is None else {"image_id": a.image_id, "row_number": a.row_number},
        "b": None if b is None else {"image_id": b.image_id, "row_number": b.row_number},
        "parameters": {
            name: {"a": values[0], "b": values[1]} for name, values in difference.parameters.items()
        },
        "states": difference.states,
        "pixels": None if pixels is None else document(pixels),
    }


def _print(
    a: Job, b: Job, totals: Totals, listed: Sequence[Difference], sheet: Path | None
) -> None:
    columns = ", ".join(f"{name} ({count:,})" for name, count in totals.columns.most_common())
    output.pairs(
        (
            ("A", f"job {a.id} ({a.name})"),
            ("B", f"job {b.id} ({b.name})"),
            ("only in A", plural(totals.only_a, "image") if totals.only_a else None),
            ("only in B", plural(totals.only_b, "image") if totals.only_b else None),
            ("in both", plural(totals.matched, "image")),
            ("parameters differ", f"{totals.parameters_differ:,}: {columns}" if columns else None),
            ("states differ", f"{totals.states_differ:,}" if totals.states_differ else None),
            ("pixels equal", f"{totals.pixels_equal:,}"),
            ("pixels differ", f"{totals.pixels_differ:,}" if totals.pixels_differ else None),
            ("not compared", f"{totals.not_compared:,}" if totals.not_compared else None),
            ("sheet", sheet),
        )
    )
    if not totals.differ:
        output.line("nothing differs")
    elif listed:
        output.line()
        output.table(TABLE, map(_cells, listed))


def _cells(difference: Difference) -> tuple[object, ...]:
    one = difference.a or difference.b
    assert one is not None
    return (
        _row(one),
        one.place[2],
        None if difference.a is None else difference.a.image_id,
        None if difference.b is None else difference.b.image_id,
        _what(difference),
        _pixels(difference.pixels),
    )


def _row(image: Compared) -> str:
    return image.row_key or f"row {image.row_number}"


def _what(difference: Difference) -> str:
    if difference.b is None or difference.a is None:
        return "only in A" if difference.b is None else "only in B"
    changes = {**difference.parameters}
    if difference.states is not None:
        changes["state"] = difference.states
    return ", ".join(
        f"{name} {_short(before)} → {_short(after)}" for name, (before, after) in changes.items()
    )


def _short(value: object) -> str:
    return "none" if value is None else output.fitted(str(value), SHOWN_CHARACTERS)


def _pixels(pixels: PixelDifference | None) -> str | None:
    if pixels is None:
        return None
    if pixels.differing is None or pixels.pixels is None:
        return pixels.why
    share = 100 * pixels.differing / pixels.pixels
    return f"{pixels.differing:,} ({share:.3g} %), at most {pixels.largest} of 255"

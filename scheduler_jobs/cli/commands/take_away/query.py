"""`query`: a SELECT of one's own, read-only, as a table, CSV, JSON or Parquet."""

import json
import sys
from pathlib import Path

import click

from imagemill.db.errors import UsageError
from imagemill.db.process.whole_file import whole_file
from imagemill.db.read_only import SECONDS, Answer, answering
from imagemill.scheduler_jobs.cli.arguments import output_option
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.answer_table import print_answer
from imagemill.scheduler_jobs.cli.display.output import plural
from imagemill.scheduler_jobs.cli.exit_codes import unwritable
from imagemill.scheduler_jobs.cli.invocation import Invocation, open_database, pass_invocation
from imagemill.scheduler_jobs.reading.cells import check_names
from imagemill.scheduler_jobs.reading.formats import WRITERS, json_row

TABLE = "table"
STDIN = "-"


@click.command()
@pass_invocation
@click.argument("query", metavar="SELECT")
@click.option(
    "--format",
    "answer_format",
    type=click.Choice([TABLE, *WRITERS]),
    help="How the answer is written: what the suffix of --output says, else a table.",
)
@output_option("Write the answer into this file, whole or not at all.")
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(0.001, 86_400),
    default=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long the database may work on 2,000 rows of the answer.",
)
@output.json_option
def query(
    invocation: Invocation,
    query: str,
    answer_format: str | None,
    file: Path | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Ask the database with a SELECT of your own.

    Read-only: the database refuses everything else. The views are dataset_images, dataset_scores,
    dataset_jobs and dataset_failures; docs/database.md describes their columns. `-` reads the query
    from standard input.

    \b
    Example:
      imagemill query "SELECT model, count(*) FROM dataset_images GROUP BY model"
      imagemill query "SELECT * FROM dataset_images" -o images.csv
    """
    answer_format = _format(answer_format, file)
    if answer_format == "parquet" and file is None and sys.stdout.isatty():
        raise UsageError("Parquet is no text for a terminal; --output FILE")
    if query == STDIN:
        query = _standard_input()
    database = open_database(invocation.database_url)
    click.get_current_context().call_on_close(database.close)
    with answering(database, query, seconds=seconds) as answer:
        if file is not None:
            count = _write_file(answer, answer_format, file)
            if as_json:
                output.emit({"rows": count, "output": str(file.absolute())})
            else:
                output.line(f"{file}: {plural(count, 'row')}")
        elif as_json:
            _write_one_line(answer)
        elif answer_format == TABLE:
            print_answer(answer.columns, answer.pages)
        else:
            WRITERS[answer_format](sys.stdout.buffer, answer.columns, answer.pages)
            sys.stdout.buffer.flush()


def _format(wanted: str | None, file: Path | None) -> str:
    """How the answer is written. A file has no table, and its suffix may say what it has."""
    found = wanted or (TABLE if file is None else file.suffix.lower().removeprefix("."))
    if file is not None and found not in WRITERS:
        raise UsageError(f"--output {file}: name it .csv, .json or .parquet, or give --format")
    return found


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input: byte {error.start} is not UTF-8") from None


def _write_file(answer: Answer, answer_format: str, file: Path) -> int:
    try:
        with whole_file(file) as stream:
            return WRITERS[answer_format](stream, answer.columns, answer.pages)
    except OSError as error:
        raise unwritable(file, error) from None


def _write_one_line(answer: Answer) -> None:
    """The answer as one object on one line, written as it comes."""
    check_names(answer.columns)
    click.echo(f'{{"columns": {json.dumps(list(answer.columns))}, "rows": [', nl=False)
    for number, row in enumerate(answer.rows):
        click.echo(f"{', ' if number else ''}{json_row(answer.columns, row)}", nl=False)
    click.echo("]}")

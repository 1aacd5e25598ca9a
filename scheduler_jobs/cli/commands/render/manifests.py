"""`run`, `plan` and `submit`: the commands that read a manifest."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from imagemill.db.documents import document
from imagemill.db.queries.fleet.memory import list_waiting_for_memory
from imagemill.db.queries.tallies import Counts
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli.commands.look.cost import print_forecast
from imagemill.scheduler_jobs.cli.commands.render.submit_options import (
    ManifestCommand,
    submission_options,
)
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.column_table import print_columns, print_extras
from imagemill.scheduler_jobs.cli.display.deadline_verdict import deadline_checks, print_deadline
from imagemill.scheduler_jobs.cli.display.doubtful_rows import place, print_foreign, print_idle
from imagemill.scheduler_jobs.cli.display.output import Column, duration, plural
from imagemill.scheduler_jobs.cli.display.progress import LoadingView, ProgressView
from imagemill.scheduler_jobs.cli.display.undrawn_characters import warn_undrawn
from imagemill.scheduler_jobs.cli.display.unserved_jobs import (
    print_too_large,
    warn_unlabelled,
    warn_unserved,
)
from imagemill.scheduler_jobs.cli.exit_codes import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    SHOWN_PROBLEMS,
)
from imagemill.scheduler_jobs.cli.group import EARLY_WORKER
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.submit.plan import Plan
from imagemill.scheduler_jobs.submit.plan import plan as make_plan
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import Submission, check_and_submit

if TYPE_CHECKING:
    from imagemill.scheduler_jobs.local.run import RunResult

SHOWN_GROUPS = 10
SHOWN_CUT_CHARACTERS = 60


@click.command(cls=ManifestCommand)
@pass_invocation
@submission_options
@output.json_option
@click.pass_context
def plan(
    ctx: click.Context, invocation: Invocation, request: SubmissionRequest, as_json: bool
) -> None:
    """Check a manifest and say what it would render.

    Reads every row and changes nothing. Bad rows are listed, and the exit code is then 2.
    MANIFEST is a file (CSV, TSV, JSONL, JSON, Parquet, Arrow, Excel, text, also compressed), a
    pattern such as 'prompts/*.csv', a folder of prompts in .txt files, a data set that
    save_to_disk wrote, `-` for standard input, or s3://bucket/key. Several are read one after
    another.

    \b
    Example:
      imagemill plan prompts.csv --samples 4 --steps 25
    """
    file = invocation.database_file
    database = None if file is not None and not file.is_file() else invocation.database
    planned = make_plan(request, settings=invocation.settings, database=database)
    checks = deadline_checks(planned, request, database)
    if as_json:
        output.emit(document(planned) | {"deadline": checks})
    else:
        _print_plan(planned, request)
        print_deadline(checks, request)
        print_too_large(planned.too_large)
    if database is not None:
        with database.reading() as session:
            warn_unlabelled(session, request.route, request.needs)
    if _refusal(planned, request) is not None:
        ctx.exit(EXIT_USAGE)


@click.command(cls=ManifestCommand)
@pass_invocation
@submission_options
@output.json_option
def submit(invocation: Invocation, request: SubmissionRequest, as_json: bool) -> None:
    """Queue a manifest for the workers.

    If a row is bad, nothing is queued (except with --skip-bad-rows). The same manifest with the
    same options adds nothing the second time. MANIFEST is what `imagemill plan` takes.

    \b
    Example:
      imagemill submit s3://bucket/prompts.parquet --name landscapes --samples 4
    """
    settings, database = invocation.settings, invocation.database
    view = LoadingView()
    try:
        submission = check_and_submit(
            request, settings=settings, database=database, progress=view.update
        )
    finally:
        view.close()
    if as_json:
        output.emit(document(submission))
    else:
        _print_submission(submission)
    if submission.ready:
        with invocation.reading() as session:
            warn_unserved(session, submission.route, submission.needs)
            too_large = list_waiting_for_memory(session, job_id=submission.job_id)
        print_too_large(too_large, error=True)


@click.command(cls=ManifestCommand)
@pass_invocation
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for pictures and database; created if it is not there.",
)
@click.option(
    "--picture-name",
    metavar="TEMPLATE",
    help="The names of the files in DIR/pictures, such as {key}-{sampler}-{seed}.",
)
@submission_options
@output.json_option
@click.pass_context
def run(
    ctx: click.Context,
    invocation: Invocation,
    request: SubmissionRequest,
    out: Path | None,
    picture_name: str | None,
    as_json: bool,
) -> None:
    """Render a manifest here and now, with no server.

    Starts a private broker and a worker, renders every image into DIR, and stops them. After
    Ctrl-C the same command goes on where it stopped. `imagemill --home DIR …` shows the result.
    The exit code is 1 if some images could not be rendered.

    \b
    Example:
      imagemill run prompts.csv --out pictures
    """
    # Only this command starts servers, so `plan` need not wait for their modules.
    from imagemill.scheduler_jobs.local import run as embedded_run  # noqa: PLC0415  # see above

    out = out or invocation.home
    if out is None:
        raise click.UsageError("say where the pictures go: --out DIR")
    start = _Start()
    with ProgressView(request.name or _title(request)) as view, _answering(view):
        result = embedded_run.run(
            request,
            settings=Settings.for_home(out),
            out=out,
            progress=lambda counts: view.update(counts, note=start.note(counts)),
            **({} if picture_name is None else {"picture_name": picture_name}),
            early=ctx.meta.get(EARLY_WORKER),
        )
    if as_json:
        output.emit(
            {
                "job_id": result.job_id,
                "job_name": result.job_name,
                "requested": result.requested,
                "rendered": result.rendered,
                "reused": result.reused,
                "done": result.done,
                "dead": result.dead,
                "seconds": round(result.seconds, 3),
                "images_per_second": _rounded(result.images_per_second),
                "database": result.database,
                "output": str(result.output),
                "pictures": str(result.pictures.folder),
                "foreign_syntax": result.foreign_syntax,
                "without_effect": result.without_effect,
                "columns": result.columns,
            }
        )
    else:
        _print_run(result, out)
    if result.interrupted:
        ctx.exit(EXIT_INTERRUPTED)
    if result.dead:
        ctx.exit(EXIT_FAILED)


def _title(request: SubmissionRequest) -> str:
    """What a run is called while it is watched."""
    if isinstance(request.manifest, str):
        return Path(request.manifest).name
    return f"{Path(request.manifest[0]).name}, …"


@contextmanager
def _answering(view: ProgressView) -> Iterator[None]:
    """Print an answer to Ctrl-C at once, before the signal is handled as usual."""

    def answer(number: int, frame: FrameType | None) -> None:
        # Python refuses to write to a stream during another write. Then there is no answer.
        with suppress(RuntimeError):
            view.stopping()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Start:
    """Says that the worker is waited for until it has taken images; not between two claims.

    Until it has imported its libraries, it looks as if nothing happens.
    """

    def __init__(self) -> None:
        self._done: int | None = None
        self._over = False

    def note(self, counts: Counts) -> str:
        """What to say beside these counts."""
        if self._done is None:
            self._done = counts.done
        self._over = self._over or counts.leased > 0 or counts.done > self._done
        return "" if self._over or not counts.pending else "waiting for the worker"


def _print_run(result: "RunResult", out: Path) -> None:
    counts = f"{plural(result.done, 'image')} done of {result.requested:,}"
    if result.dead:
        counts += f", {result.dead:,} dead"
    if result.rendered == 0 and result.done == result.requested:
        output.line(f"nothing to do: {counts} already")
    else:
        output.line(
            f"{counts}; rendered {result.rendered:,} in {duration(result.seconds)}"
            f"{_pace(result.images_per_second)}; reused {result.reused:,}"
        )
    output.pairs(
        (
            ("job", f"{result.job_id} ({result.job_name})"),
            ("pictures", result.pictures.folder if result.pictures.named else None),
            ("folder", result.output),
            ("contact sheet", result.contact_sheet),
            ("database", result.database),
        )
    )
    warn_undrawn(result.undrawn)
    print_extras(result.columns)
    print_foreign(result.foreign_syntax)
    print_idle(result.without_effect)
    if result.pictures.taken:
        output.line(
            f"{plural(result.pictures.taken, 'name')} in {result.pictures.folder} belong to other "
            "files, which were left alone; move them away and run again",
            error=True,
        )
    if result.interrupted:
        output.line("stopped; the same command goes on where it stopped")
    elif result.dead:
        output.line(f"`imagemill --home {out} errors {result.job_id}` says what went wrong")


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 3)


def _pace(rate: float | None) -> str:
    return "" if rate is None else f" ({output.rate(rate)} once started)"


def _print_plan(planned: Plan, request: SubmissionRequest) -> None:
    for problem in planned.problems[:SHOWN_PROBLEMS]:
        output.line(str(problem), error=True)
    rest = len(planned.problems) - SHOWN_PROBLEMS
    if rest > 0:
        output.line(f"… and {rest:,} more (--json lists all)", error=True)
    output.pairs(
        (
            ("rows", f"{planned.rows:,}"),
            ("bad rows", _counted_bad(planned)),
            ("images", f"{planned.images:,}"),
            ("rendered already", None if planned.reused is None else f"{planned.reused:,}"),
            ("checked in", f"{planned.seconds:.1f} s"),
        )
    )
    print_columns(planned.columns)
    if planned.groups:
        output.line()
        output.table(
            (
                Column(title="MODEL"),
                Column(title="SIZE"),
                Column(title="GUIDANCE"),
                Column(title="IMAGES", right=True),
            ),
            (
                (g.model, f"{g.width}x{g.height}", "yes" if g.guided else "no", f"{g.images:,}")
                for g in planned.groups[:SHOWN_GROUPS]
            ),
        )
        if len(planned.groups) > SHOWN_GROUPS:
            output.line(f"… and {len(planned.groups) - SHOWN_GROUPS:,} more groups")
    print_forecast(planned.forecasts, planned.unmeasured)
    if planned.long_prompts:
        output.line()
        output.line(
            f"{plural(planned.long_prompts, 'image')} with a prompt longer than the model reads; "
            "this part is cut:"
        )
        for each in planned.long_prompt_rows:
            output.line(f"  {place(each)}: …{output.fitted(each.text, SHOWN_CUT_CHARACTERS)}")
    print_foreign(planned.foreign_syntax)
    print_idle(planned.without_effect)
    refusal = _refusal(planned, request)
    if refusal is not None:
        output.line(f"error: {refusal}", error=True)


def _counted_bad(planned: Plan) -> str | None:
    # Damage to a file is among the findings, and no row.
    bad = planned.bad_rows - (not planned.readable)
    return f"{bad:,}" if bad > 0 else None


def _refusal(planned: Plan, request: SubmissionRequest) -> str | None:
    """Why submitting would queue nothing of this manifest; None if it would."""
    if not planned.readable:
        return "the manifest can't be used as it is; submitting queues nothing"
    if not planned.bad_rows or (request.skip_bad_rows and planned.rows):
        return None
    bad = plural(planned.bad_rows, "bad row")
    if request.skip_bad_rows:
        return f"{bad} and no other; submitting queues nothing"
    mended = "it is" if planned.bad_rows == 1 else "they are"
    return f"{bad}; submitting queues nothing until {mended} mended or --skip-bad-rows is given"


def _print_submission(submission: Submission) -> None:
    job = f"job {submission.job_id} ({submission.job_name})"
    if submission.nothing_to_do:
        output.line(
            f"nothing to do: {job} already has these {plural(submission.requested, 'image')}"
        )
        return
    if not submission.created:
        output.line(
            f"nothing added: {job} already has these {plural(submission.requested, 'image')}, "
            f"{submission.ready:,} still to render"
        )
        return
    output.line(
        f"{job}: {plural(submission.requested, 'image')} of {plural(submission.rows, 'row')}; "
        f"{submission.ready:,} to render, {submission.reused:,} rendered already"
    )
    if submission.bad_rows:
        output.line(
            f"{plural(submission.bad_rows, 'bad row')} skipped; "
            f"{output.offered(f'errors {submission.job_id}')} lists them"
        )
    print_extras(submission.columns)
    print_foreign(submission.foreign_syntax)
    print_idle(submission.without_effect)
    output.line(f"{output.offered(f'watch {submission.job_id}')} follows it")

"""`status` and `jobs`: the progress of jobs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

from imagemill.db.labels import label_text, read_label
from imagemill.db.queries.fleet import reports
from imagemill.db.queries.fleet.reports import (
    CodeReport,
    GroupReport,
    JobReport,
    WaitingImages,
)
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.scores import ScoringReport, list_scoring
from imagemill.db.states import JobState
from imagemill.scheduler_jobs.cli.arguments import job_argument, labels_option, whole
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.fleet import look_at_fleet, print_fleet
from imagemill.scheduler_jobs.cli.display.output import (
    Column,
    ago,
    duration,
    moment,
    number,
    plural,
)
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation

SHOWN_GROUPS = 10
SHOWN_JOBS = 30
"""The most live jobs that are shown, those in work first. `--json` has all."""

COLUMNS = (
    Column(title="JOB", right=True),
    Column(title="NAME", elastic=True, whole=True),
    Column(title="STATE"),
    Column(title="IMAGES", right=True),
    Column(title="DONE", right=True),
    Column(title="DEAD", right=True),
    Column(title="IMAGES/S", right=True),
    Column(title="LEFT", right=True),
    Column(title="SUBMITTED"),
)
OWNER = Column(title="OWNER", elastic=True)
"""A column that is shown where the listed jobs have several owners."""

SAID = (Column(title="LABELS", elastic=True), Column(title="NOTE", elastic=True))
"""Columns of what people say about jobs, shown where one of the listed jobs has it."""


@click.command()
@pass_invocation
@job_argument(required=False)
@output.json_option
def status(invocation: Invocation, job: str | None, as_json: bool) -> None:
    """Show how far the live jobs are, or one job in detail.

    Without JOB: a line for each job that is loading, open or paused (if there is none, for the
    newest job), what scorers have left to judge, and the workers. With JOB, which is an id, a name
    or `latest`: its settings, counts, speed, outcomes, groups and errors, what scorers have left,
    and the workers if it has not ended.

    \b
    Examples:
      imagemill status
      imagemill status latest
    """
    if job is None:
        _all(invocation, as_json=as_json)
    else:
        _one(invocation, job, as_json=as_json)


@click.command()
@pass_invocation
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in JobState]),
    multiple=True,
    help="Only jobs in this state; may be repeated.",
)
@labels_option
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="The most jobs to list.",
)
@click.option(
    "--before", type=int, callback=whole(1), metavar="ID", help="Only jobs older than this one."
)
@output.json_option
def jobs(
    invocation: Invocation,
    states: Sequence[str],
    labels: Sequence[str],
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    A job whose manifest had bad rows is only listed with --state rejected.

    \b
    Examples:
      imagemill jobs --state finished --limit 10
      imagemill jobs --label team=faces
    """
    labelled = [read_label(text) for text in labels]
    with invocation.reading() as session:
        wanted = [JobState(state) for state in states]
        found = reports.list_jobs(
            session, states=wanted, labels=labelled, limit=limit + 1, before=before
        )
    page, more = found[:limit], len(found) > limit
    if as_json:
        output.emit({"jobs": page, "next": page[-1].id if more else None})
    elif not page:
        output.line("no jobs")
    else:
        _print_jobs(page)
        if more:
            output.line(f"older ones: --before {page[-1].id}", error=True)


def _all(invocation: Invocation, *, as_json: bool) -> None:
    with invocation.reading() as session:
        live = reports.list_jobs(session, states=reports.UNFINISHED, limit=10_000)
        newest = live or reports.list_jobs(session, limit=1)
        scoring = list_scoring(session)
        fleet = look_at_fleet(session)
    if as_json:
        output.emit({"jobs": live, "scoring": scoring, **fleet._asdict()})
        return
    if not live:
        output.line("no job is live" + ("; the newest:" if newest else ""))
    if newest:
        shown = sorted(newest, key=lambda job: not job.counts.leased)[:SHOWN_JOBS]
        _print_jobs(shown)
        if len(newest) > len(shown):
            more = plural(len(newest) - len(shown), "more live job")
            output.line(f"… and {more} ({output.offered('jobs --state open')} lists them)")
    _print_scoring(scoring)
    output.line()
    print_fleet(fleet, live)


def _one(invocation: Invocation, reference: str, *, as_json: bool) -> None:
    with invocation.reading() as session:
        found = find_job(session, reference)
        (report,) = reports.report_jobs(session, [found])
        outcomes = reports.count_outcomes(session, found.id)
        waiting = reports.count_waiting(session, found.id) if report.counts.ready else None
        groups = reports.list_groups(session, found.id)
        dead = reports.count_dead(session, found.id) if report.counts.dead else []
        scoring = list_scoring(session, found.id)
        waits = report.state in reports.UNFINISHED or bool(scoring)
        fleet = look_at_fleet(session, job_id=found.id) if waits or as_json else None
    if as_json:
        told = {"job": report, "scoring": scoring, "waiting": waiting, "outcomes": outcomes}
        told |= {"groups": groups, "codes": dead}
        output.emit(told | (fleet._asdict() if fleet else {}))
        return
    _print_job(report, outcomes, waiting)
    _print_groups(groups)
    _print_dead(report, dead)
    _print_scoring(scoring)
    if fleet is not None:
        output.line()
        print_fleet(fleet, [report])


def _print_job(job: JobReport, outcomes: Mapping[str, int], waiting: WaitingImages | None) -> None:
    counts = job.counts
    rate = None if job.images_per_second is None else output.rate(job.images_per_second)
    output.pairs(
        (
            ("job", f"{job.id} ({job.name})"),
            ("state", job.state),
            ("why", job.message),
            ("labels", label_text(job.labels)),
            ("note", job.note),
            ("manifest", job.manifest),
            ("rows", f"{job.rows_loaded:,}"),
            ("bad rows", f"{job.bad_rows:,}" if job.bad_rows else None),
            ("images", f"{job.requested:,}"),
            ("ready", f"{counts.ready:,}{_waiting(waiting)}" if counts.ready else None),
            ("leased", f"{counts.leased:,}" if counts.leased else None),
            ("done", f"{counts.done:,}{_share(counts.done, job.requested)}"),
            ("dead", f"{counts.dead:,}" if counts.dead else None),
            ("cancelled", f"{counts.cancelled:,}" if counts.cancelled else None),
            ("outcomes", _outcomes(outcomes)),
            ("rate", rate),
            ("left", _left(job)),
            ("owner", job.owner or None),
            ("priority", job.priority or None),
            ("weight", job.weight if job.weight != 1 else None),
            ("deadline", _deadline(job)),
            ("needs", label_text(job.needs)),
            ("workers", f"at most {job.max_workers:,}" if job.max_workers else None),
            ("route", None if job.route == "default" else job.route),
            ("seed", job.seed),
            ("submitted", moment(job.created_at)),
            ("finished", moment(job.finished_at)),
        )
    )


def _print_groups(groups: Sequence[GroupReport]) -> None:
    if len(groups) < 2:
        return
    output.line()
    output.table(
        (
            Column(title="MODEL", elastic=True),
            Column(title="SIZE"),
            Column(title="GUIDANCE"),
            Column(title="IMAGES", right=True),
            Column(title="DONE", right=True),
            Column(title="DEAD", right=True),
        ),
        (
            (
                group.model,
                f"{group.width}x{group.height}",
                "yes" if group.guided else "no",
                f"{group.counts.requested:,}",
                f"{group.counts.done:,}",
                f"{group.counts.dead:,}",
            )
            for group in groups[:SHOWN_GROUPS]
        ),
    )
    if len(groups) > SHOWN_GROUPS:
        output.line(f"… and {plural(len(groups) - SHOWN_GROUPS, 'more group')}")


def _print_scoring(scoring: Sequence[ScoringReport]) -> None:
    if not scoring:
        return
    output.line()
    output.table(
        (
            Column(title="SCORER", whole=True),
            Column(title="JOB", right=True),
            Column(title="NAME", elastic=True, whole=True),
            Column(title="LEFT", right=True),
            Column(title="RUNNING", right=True),
        ),
        (
            (each.scorer, each.job_id, each.job_name, f"{each.left:,}", f"{each.running:,}")
            for each in scoring
        ),
    )


def _print_dead(job: JobReport, dead: Sequence[CodeReport]) -> None:
    if not dead:
        return
    output.line()
    output.table(
        (
            Column(title="DEAD", right=True),
            Column(title="CODE"),
            Column(title="FOR EXAMPLE", elastic=True),
        ),
        ((f"{entry.images:,}", entry.code, entry.message) for entry in dead),
    )
    output.line(f"{output.offered(f'errors {job.id}')} lists them")
    output.line(f"{output.offered(f'retry {job.id}')} tries again")


def _print_jobs(jobs: Sequence[JobReport]) -> None:
    several = len({job.owner for job in jobs}) > 1
    said = [(job.owner if several else None, label_text(job.labels), job.note) for job in jobs]
    if not any(any(cells) for cells in said):
        output.table(COLUMNS, map(_cells, jobs))
        return
    # Owners, labels and notes take much room, so columns without a single value make way.
    rows = [(*_cells(job), *cells) for job, cells in zip(jobs, said, strict=True)]
    columns = (*COLUMNS, OWNER, *SAID)
    used = [n for n in range(len(columns)) if any(row[n] for row in rows)]
    output.table([columns[n] for n in used], ([row[n] for n in used] for row in rows))


def _cells(job: JobReport) -> tuple[object, ...]:
    return (
        job.id,
        job.name,
        job.state,
        f"{job.requested:,}",
        f"{job.counts.done:,}",
        f"{job.counts.dead:,}" if job.counts.dead else None,
        None if job.images_per_second is None else number(job.images_per_second),
        _left(job),
        ago(job.created_at),
    )


def _deadline(job: JobReport) -> str | None:
    """When what is not rendered is cancelled, and whether the job looks as if it would be late."""
    if job.deadline_at is None or job.state not in reports.UNFINISHED:
        return None
    left = (job.deadline_at - datetime.now(UTC)).total_seconds()
    told = f"{moment(job.deadline_at)}, in {duration(left)}" if left > 0 else "passed"
    late = job.eta_seconds is not None and job.eta_seconds > left
    return f"{told}; too soon at this rate: the rest will be cancelled" if late else told


def _left(job: JobReport) -> str | None:
    """The remaining time; `starting` if a worker has images but has finished too few to know."""
    if job.eta_seconds is not None:
        return duration(job.eta_seconds)
    return "starting" if job.state == JobState.OPEN and job.counts.leased else None


def _waiting(waiting: WaitingImages | None) -> str:
    if waiting is None:
        return ""
    return (
        f" ({waiting.images:,} failed and tried again later, first in {duration(waiting.seconds)})"
    )


def _share(part: int, whole: int) -> str:
    return f" ({100 * part // whole} %)" if whole else ""


def _outcomes(outcomes: Mapping[str, int]) -> str | None:
    if not outcomes or set(outcomes) == {"ok"}:
        return None
    return ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())

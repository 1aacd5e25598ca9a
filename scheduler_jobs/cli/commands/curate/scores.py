"""`score`: judging finished pictures, and what came out of it."""

from collections.abc import Sequence

import click

from imagemill.db.broker.wake_ups import FIRST_TOKENS, SCORE_TASK, Tokens
from imagemill.db.errors import BrokerError, UsageError
from imagemill.db.models.scorers import all_scorers
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.scores import (
    FailureSummary,
    ScoreSummary,
    summarize_failures,
    summarize_scores,
    waiting_by_scorer,
)
from imagemill.db.queries.tallies import Counts
from imagemill.db.scorers import ScorerEntry, find_scorers
from imagemill.db.settings import Settings
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.cli.display.progress import ProgressView
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.curation.passes import plan_pass
from imagemill.scheduler_jobs.local.score_pass import score_here


@click.command()
@pass_invocation
@click.argument("jobs", nargs=-1, metavar="JOB...")
@click.option("--with", "names", metavar="SCORERS", help="Which, with commas: phash,sharpness.")
@click.option("--where", metavar="CONDITION", help='Only these images: "steps > 20".')
@click.option(
    "--here/--queue",
    "here",
    default=None,
    help="Judge in this command, or queue for workers (default: here where no broker is set).",
)
@output.json_option
@click.pass_context
def score(
    ctx: click.Context,
    invocation: Invocation,
    jobs: tuple[str, ...],
    *,
    names: str | None,
    where: str | None,
    here: bool | None,
    as_json: bool,
) -> None:
    """Judge finished pictures, or show what scorers said of them.

    Only what is missing is judged, so the same command goes on where it was interrupted. Without
    --with it shows the scores of the jobs; without a job it lists the scorers. The exit code is 1
    if pictures could not be judged.

    \b
    Example:
      imagemill score latest --with phash,sharpness
    """
    if not jobs:
        if names or where or here is not None:
            raise UsageError("name the jobs whose pictures are to be judged")
        _list_scorers(invocation.settings, as_json=as_json)
        return
    if names is not None and not names.strip():
        raise UsageError("--with: an empty text; `imagemill score` lists the scorers")
    if names is None and (where or here is not None):
        raise UsageError("--with names the scorers")
    scorers = _named(names, invocation.settings)
    with invocation.reading() as session:
        found = list({job.id: job for job in (find_job(session, each) for each in jobs)}.values())
    if not scorers:
        _show(invocation, found, as_json=as_json)
        return
    here = "broker_url" not in invocation.settings.model_fields_set if here is None else here
    ids = [job.id for job in found]
    queued = plan_pass(
        invocation.database,
        job_ids=ids,
        scorers=scorers,
        where=where,
        route=invocation.settings.route if here else None,
    )
    if not here:
        woken = not any(queued.values()) or _wake(invocation.settings, {job.route for job in found})
        _tell_queued(queued, woken=woken, as_json=as_json)
        return
    if not _judge(invocation, ids, scorers):
        ctx.exit(EXIT_INTERRUPTED)
    if _show(invocation, found, scorers, queued=queued, as_json=as_json):
        ctx.exit(EXIT_FAILED)


def _named(names: str | None, settings: Settings) -> list[ScorerEntry]:
    if not names:
        return []
    return find_scorers([name.strip() for name in names.split(",")], all_scorers(settings))


def _judge(invocation: Invocation, ids: Sequence[int], scorers: Sequence[ScorerEntry]) -> bool:
    with ProgressView("score") as view:
        return score_here(
            invocation.database,
            invocation.settings,
            ids,
            scorers,
            progress=lambda done, total: view.update(Counts(done=done, ready=total - done)),
        )


def _wake(settings: Settings, routes: set[str]) -> bool:
    """Wake workers; whether the broker took it. Without one, the dispatcher does it later."""
    tokens = Tokens(settings)
    try:
        for route in sorted(routes):
            tokens.publish(route, FIRST_TOKENS, task=SCORE_TASK)
    except BrokerError as error:
        output.line(f"workers begin when the broker is back: {error}", error=True)
        return False
    else:
        return True
    finally:
        tokens.close()


def _tell_queued(queued: dict[str, int], *, woken: bool, as_json: bool) -> None:
    if as_json:
        output.emit({"queued": queued})
        return
    for name, images in queued.items():
        done = "queued" if woken else "recorded, to be queued by the dispatcher"
        told = f"{plural(images, 'image')} {done}" if images else "nothing is missing"
        output.line(f"{name}: {told}")


def _list_scorers(settings: Settings, *, as_json: bool) -> None:
    known = sorted(all_scorers(settings).values(), key=lambda entry: entry.name)
    if as_json:
        fields = ("name", "version", "title", "problem")
        output.emit({"scorers": [{f: getattr(entry, f) for f in fields} for entry in known]})
        return
    output.table(
        (
            Column(title="SCORER", whole=True),
            Column(title="VERSION"),
            Column(title="WHAT IT MEASURES", elastic=True),
        ),
        ((entry.name, entry.version, entry.problem or entry.title) for entry in known),
    )


def _show(
    invocation: Invocation,
    jobs: Sequence[Job],
    scorers: Sequence[ScorerEntry] = (),
    *,
    as_json: bool,
    queued: dict[str, int] | None = None,
) -> bool:
    """Print the scores of jobs (of these scorers, if any are given); whether any image failed."""
    names = {scorer.name for scorer in scorers}
    documents, failed = [], False
    for job in jobs:
        with invocation.reading() as session:
            scores = [s for s in summarize_scores(session, job.id) if _is_of(s, names)]
            failures = [f for f in summarize_failures(session, job.id) if _is_of(f, names)]
            waiting = waiting_by_scorer(session, job.id)
        failed = failed or bool(failures)
        documents.append(
            {
                "job_id": job.id,
                "job_name": job.name,
                "scores": scores,
                "failures": failures,
                "waiting": waiting,
            }
        )
        if not as_json:
            _print_scores(job, scores, failures, waiting)
    if as_json:
        output.emit({**({} if queued is None else {"queued": queued}), "jobs": documents})
    return failed


def _is_of(summary: ScoreSummary | FailureSummary, names: set[str]) -> bool:
    return not names or summary.scorer in names


def _print_scores(
    job: Job,
    scores: Sequence[ScoreSummary],
    failures: Sequence[FailureSummary],
    waiting: dict[str, int],
) -> None:
    output.line(f"job {job.id} ({job.name})" + ("" if scores else ": no scores"))
    if scores:
        output.table(
            (
                Column(title="SCORE", whole=True),
                *(Column(title=title, right=True) for title in ("IMAGES", "LOWEST", "MEAN")),
                Column(title="HIGHEST", right=True),
                Column(title="SCORER"),
                Column(title="VERSION"),
            ),
            (
                (
                    each.name,
                    f"{each.images:,}",
                    *map(_value, (each.lowest, each.mean, each.highest)),
                    each.scorer,
                    each.version,
                )
                if each.distinct is None
                else (
                    *(each.name, f"{each.images:,}", None, f"{each.distinct:,} different", None),
                    *(each.scorer, each.version),
                )
                for each in scores
            ),
        )
    for failure in failures:
        count = plural(failure.images, "image")
        output.line(f"{failure.scorer}: {count} failed ({failure.code}): {failure.message}")
    for name, images in waiting.items():
        output.line(f"{name}: {plural(images, 'image')} waiting")


def _value(value: float | None) -> str | None:
    return None if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"

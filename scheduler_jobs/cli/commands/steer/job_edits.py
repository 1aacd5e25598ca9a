"""`edit`: changes when and by whom a job is rendered."""

from collections.abc import Mapping, Sequence

import click

from imagemill.db.errors import UsageError
from imagemill.db.labels import label_text, labels_of, read_labels
from imagemill.db.queries.fleet.reports import UNFINISHED
from imagemill.db.queries.jobs.job_edits import NO_LIMIT, JobEdit, edit_job
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.scheduler_jobs.cli.arguments import job_argument, whole
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import moment
from imagemill.scheduler_jobs.cli.display.unserved_jobs import warn_unlabelled
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.deadlines import read_deadline
from imagemill.scheduler_jobs.owners import MOST_WEIGHT
from imagemill.scheduler_jobs.submit.options import MOST_PRIORITY, MOST_WORKERS


@click.command()
@pass_invocation
@job_argument()
@click.option(
    "--priority",
    type=int,
    callback=whole(-MOST_PRIORITY - 1, MOST_PRIORITY),
    metavar="N",
    help="Jobs with a higher number go first.",
)
@click.option(
    "--weight",
    type=int,
    callback=whole(1, MOST_WEIGHT),
    metavar="N",
    help="The job's share beside other jobs of its owner.",
)
@click.option(
    "--max-workers",
    type=int,
    callback=whole(NO_LIMIT, MOST_WORKERS),
    metavar="N",
    help="At most so many worker processes render it at once; 0 is no limit.",
)
@click.option(
    "--deadline",
    metavar="TIME",
    help="Cancel what is not rendered by then: a duration (12h) or a time; `none` for no deadline.",
)
@click.option(
    "--needs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only workers with this label render it, instead of those before; may be repeated; "
    "`none` for any worker.",
)
@output.json_option
def edit(
    invocation: Invocation,
    job: str,
    priority: int | None,
    weight: int | None,
    max_workers: int | None,
    deadline: str | None,
    needs: Sequence[str],
    as_json: bool,
) -> None:
    """Change a job's turn: priority, weight, which workers may render it, how many.

    What workers hold at that moment is finished first. Without an option, what is set is shown.

    \b
    Examples:
      imagemill edit latest --max-workers 2
      imagemill edit latest --needs gpu=h100
      imagemill edit 12 --priority 5

    \f
    More than seven parameters: they are the command's options.
    """
    none = deadline == "none"
    change = JobEdit(
        priority=priority,
        weight=weight,
        max_workers=max_workers,
        deadline=None if deadline is None or none else read_deadline(deadline),
        no_deadline=none,
        needs=_needs(needs),
    )
    if change == JobEdit():
        with invocation.reading() as session:
            found = find_job(session, job)
    else:
        found = invocation.database.run(lambda session: edit_job(session, job, change))
    if as_json:
        output.emit(
            {
                "job_id": found.id,
                "job_name": found.name,
                "priority": found.priority,
                "weight": found.weight,
                "max_workers": found.max_workers,
                "deadline_at": found.deadline_at,
                "needs": labels_of(found.needs),
            }
        )
        return
    most = "no limit" if found.max_workers is None else f"at most {found.max_workers:,}"
    output.line(
        f"job {found.id} ({found.name}): priority {found.priority}, "
        f"weight {found.weight}, workers: {most}"
        + (f", deadline {moment(found.deadline_at)}" if found.deadline_at else "")
        + (f", needs {label_text(labels_of(found.needs))}" if found.needs else "")
    )
    if needs and found.state in UNFINISHED:
        with invocation.reading() as session:
            warn_unlabelled(session, found.route, labels_of(found.needs))


def _needs(texts: Sequence[str]) -> Mapping[str, str] | None:
    """The labels that a job is to need; None if nothing is said of them."""
    if "none" in texts and len(texts) > 1:
        raise UsageError("--needs none is for a job that needs nothing; give it alone")
    return {} if tuple(texts) == ("none",) else read_labels(texts) if texts else None

"""`label` and `note`: what people say about a job."""

from collections.abc import Sequence
from typing import Any

import click
from sqlalchemy.orm import Session

from imagemill.db.labels import label_text, read_label, read_labels
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.labels import find_labels, find_notes, set_labels, set_note
from imagemill.scheduler_jobs.cli.arguments import job_argument
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.cli.value_types import AnyText

NOTE_CHARACTERS = 10_000


class LabelCommand(click.Command):
    """A command that takes `-key`, which click would read as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move the words that take labels away into the parameter `gone`."""
        options = {name for param in self.get_params(ctx) for name in param.opts}
        gone = [w for w in args if len(w) > 1 and w[0] == "-" and w[1] != "-" and w not in options]
        rest = super().parse_args(ctx, [word for word in args if word not in gone])
        ctx.params["gone"] = tuple(word[1:] for word in gone)
        return rest


def _note(ctx: click.Context, param: click.Parameter, text: Any) -> str | None:
    """A text that every database can keep. Raises a usage error for any other."""
    if text is None:
        return None
    written = str(text).strip()
    if len(written) > NOTE_CHARACTERS:
        raise click.BadParameter(
            f"{len(written):,} characters; allowed: at most {NOTE_CHARACTERS:,}", ctx, param
        )
    if not written.replace("\n", "").replace("\t", "").isprintable():
        raise click.BadParameter("it has control characters", ctx, param)
    return written


@click.command(cls=LabelCommand, options_metavar="[OPTIONS]")
@pass_invocation
@job_argument()
@click.argument("labels", nargs=-1, metavar="[KEY=VALUE | KEY | -KEY]...")
@output.json_option
def label(
    invocation: Invocation, job: str, labels: Sequence[str], as_json: bool, gone: Sequence[str]
) -> None:
    """Give a job labels, or take them away.

    KEY=VALUE or KEY sets a label, -KEY takes it away. Without any, the job's labels are shown.
    `imagemill jobs --label KEY=VALUE` finds the jobs that have one.

    \b
    Examples:
      imagemill label latest team=faces keep
      imagemill label latest -keep
    """
    given = read_labels(labels)
    without = [read_label(key)[0] for key in gone]
    if twice := sorted(set(given) & set(without)):
        raise click.UsageError(f"label {twice[0]} is both set and taken away")

    def work(session: Session) -> tuple[int, str, dict[str, str]]:
        found = find_job(session, job)
        set_labels(session, found.id, given, without=without)
        return found.id, found.name, find_labels(session, [found.id]).get(found.id, {})

    if given or without:
        job_id, name, now = invocation.database.run(work)
    else:
        with invocation.reading() as reading:
            job_id, name, now = work(reading)
    if as_json:
        output.emit({"job_id": job_id, "job_name": name, "labels": now})
    else:
        output.line(f"job {job_id} ({name}): {label_text(now) or 'no labels'}")


@click.command()
@pass_invocation
@job_argument()
@click.argument("text", required=False, type=AnyText(), callback=_note)
@output.json_option
def note(invocation: Invocation, job: str, text: str | None, as_json: bool) -> None:
    """Write a note to a job, in the place of the one before.

    Without TEXT the note is shown; an empty TEXT takes it away.

    \b
    Example:
      imagemill note latest "for the October release; do not remove"
    """

    def work(session: Session) -> tuple[int, str, str | None]:
        found = find_job(session, job)
        if text is not None:
            set_note(session, found.id, text)
        return found.id, found.name, find_notes(session, [found.id]).get(found.id)

    if text is not None:
        job_id, name, now = invocation.database.run(work)
    else:
        with invocation.reading() as reading:
            job_id, name, now = work(reading)
    if as_json:
        output.emit({"job_id": job_id, "job_name": name, "note": now})
    else:
        output.line(f"job {job_id} ({name}): {now or 'no note'}")

"""`notifications`: what was told of jobs, what failed, and a test of the settings."""

import json
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import click
from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.db.queries import notifications as outbox
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.notifications import STATES, NotificationReport
from imagemill.scheduler_jobs.cli.arguments import storable_reference, whole
from imagemill.scheduler_jobs.cli.command_table import commands_below
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, ago, plural
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_FAILED
from imagemill.scheduler_jobs.cli.group import LazyGroup
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.notifications.deliveries import Delivery, DeliveryResult
from imagemill.scheduler_jobs.notifications.receivers import Receivers

TEST = "imagemill.test"

_COLUMNS = (
    Column(title="ID", right=True),
    Column(title="EVENT"),
    Column(title="JOB", right=True),
    Column(title="TO", elastic=True, whole=True),
    Column(title="STATE"),
    Column(title="TRIES", right=True),
    Column(title="WHEN"),
    Column(title="NOTE", elastic=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tested:
    """What came of a test event at one receiver."""

    to: str
    sent: bool
    note: str


@click.group(cls=LazyGroup, table=commands_below("notifications"), invoke_without_command=True)
@pass_invocation
@click.option("--job", metavar="JOB", callback=storable_reference, help="Only those of this job.")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Only those in this state; may be repeated.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="The most notifications to list.",
)
@click.option(
    "--before", type=int, callback=whole(1), metavar="ID", help="Only those older than this one."
)
@output.json_option
@click.pass_context
def notifications(
    ctx: click.Context,
    invocation: Invocation,
    job: str | None,
    states: Sequence[str],
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List what was told of jobs by webhook or command, and what failed.

    Newest first. Addresses are shown without their paths, which may be secrets.

    \b
    Examples:
      imagemill notifications --state failed
      imagemill notifications --job latest
    """
    if ctx.invoked_subcommand is not None:
        return
    with invocation.reading() as session:
        found = outbox.list_notifications(
            session,
            job_id=None if job is None else find_job(session, job).id,
            states=states,
            limit=limit + 1,
            before=before,
        )
    page, more = found[:limit], len(found) > limit
    if as_json:
        output.emit({"notifications": page, "next": page[-1].id if more else None})
    elif not page:
        output.line("no notifications")
    else:
        output.table(_COLUMNS, map(_cells, page))
        if more:
            output.line(f"older ones: --before {page[-1].id}", error=True)


@click.command()
@pass_invocation
@click.argument("ids", nargs=-1, type=click.IntRange(1), metavar="[ID]...")
@click.option("--failed", is_flag=True, help="Every one that has failed.")
@output.json_option
def retry(invocation: Invocation, ids: tuple[int, ...], failed: bool, as_json: bool) -> None:
    """Let notifications be sent again.

    A dispatcher sends them within seconds, with the same id as before, and with all its tries. One
    that was sent is sent again if its ID is given.

    \b
    Examples:
      imagemill notifications retry --failed
      imagemill notifications retry 17
    """
    if bool(ids) == failed:
        raise click.UsageError("give IDs, or --failed")

    def work(session: Session) -> list[int]:
        return outbox.retry_notifications(session, None if failed else ids)

    again = invocation.database.run(work)
    if missing := sorted(set(ids) - set(again)):
        raise UsageError(
            f"notification {missing[0]} is not there, or is being sent at this moment; "
            "`imagemill notifications` lists them"
        )
    if as_json:
        output.emit({"notifications": again})
    else:
        output.line(f"{plural(len(again), 'notification')} will be sent again")


@click.command()
@pass_invocation
@output.json_option
@click.pass_context
def test(ctx: click.Context, invocation: Invocation, as_json: bool) -> None:
    """Send a test event from here, by the settings of this machine.

    It goes to every webhook and to the command of the settings, once, and is not recorded. Exit
    code 1 if one does not take it.

    \b
    Example:
      imagemill notifications test
    """
    # It imports the dispatcher's metrics.
    from imagemill.scheduler_jobs.notifications.notifier import delivery_of  # noqa: PLC0415  # see above

    receivers = Receivers.from_settings(invocation.settings)
    mine = receivers.audience.receivers
    if not mine:
        raise UsageError(
            "there is nobody to tell: set IMAGEMILL_NOTIFY_URLS or IMAGEMILL_NOTIFY_COMMAND"
        )
    at = datetime.now(UTC).isoformat()
    body = json.dumps({"type": TEST, "timestamp": at, "data": {"job_id": None}})
    message = outbox.Message(
        message_id=f"msg_{secrets.token_hex(16)}", event=TEST, job_id=0, body=body
    )
    deliveries = [delivery_of(receivers, message, each.kind, each.key) for each in mine]
    outcomes = _deliver(deliveries)
    tested = [
        _Tested(to=each.shown, sent=outcome.sent, note=outcome.note)
        for each, outcome in zip(mine, outcomes, strict=True)
    ]
    if as_json:
        output.emit({"tested": tested})
    else:
        for each in tested:
            output.marked("ok" if each.sent else "failed", f"{each.to}: {each.note}")
    if not all(each.sent for each in tested):
        ctx.exit(EXIT_FAILED)


def _deliver(deliveries: Sequence[Delivery]) -> list[DeliveryResult]:
    """Try all at once, each within its time."""
    with ThreadPoolExecutor(len(deliveries)) as pool:
        futures = [pool.submit(each.run) for each in deliveries]
        for delivery, future in zip(deliveries, futures, strict=True):
            try:
                future.result(delivery.seconds)
            except TimeoutError:
                delivery.abort()
        return [future.result() for future in futures]


def _cells(each: NotificationReport) -> tuple[object, ...]:
    return (
        each.id,
        each.event,
        each.job_id,
        each.to,
        each.state,
        each.tries,
        ago(each.sent_at or each.created_at),
        each.note,
    )

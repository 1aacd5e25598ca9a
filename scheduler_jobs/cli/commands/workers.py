"""`workers`: the fleet from here, and the order to drain."""

import click

from imagemill.db.queries.workers import FleetWorker, list_fleet, order_drain
from imagemill.scheduler_jobs.cli import output
from imagemill.scheduler_jobs.cli.command_table import commands_below
from imagemill.scheduler_jobs.cli.group import LazyGroup
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.cli.output import Column, ago, number, plural


@click.group(cls=LazyGroup, table=commands_below("workers"), invoke_without_command=True)
@pass_invocation
@output.json_option
@click.pass_context
def workers(ctx: click.Context, invocation: Invocation, as_json: bool) -> None:
    """List the workers that are alive, and what each does.

    One line a process: its device, what it renders, B (the images of one forward pass), images/s
    over the last minute, and since when it does that.

    \b
    Example:
      imagemill workers
    """
    if ctx.invoked_subcommand is not None:
        return
    with invocation.reading() as session:
        found = list_fleet(session)
    if as_json:
        output.emit({"workers": found})
    elif not found:
        output.line("no worker is alive; `imagemill worker` starts one")
    else:
        _print(found)


@click.command()
@pass_invocation
@click.argument("name")
@output.json_option
def drain(invocation: Invocation, name: str, as_json: bool) -> None:
    """Let a worker give back what it holds and take no more.

    NAME is a worker's (`gpu@box`, or `gpu`), that of one of its processes (`gpu@box:4711`), or a
    host's. It stops at its next heartbeat, within seconds; its process stays, until `imagemill
    workers resume` or until somebody stops it.

    \b
    Example:
      imagemill workers drain gpu@box
    """
    _order(invocation, name, draining=True, as_json=as_json)


@click.command()
@pass_invocation
@click.argument("name")
@output.json_option
def resume(invocation: Invocation, name: str, as_json: bool) -> None:
    """Let a drained worker take work again.

    \b
    Example:
      imagemill workers resume gpu@box
    """
    _order(invocation, name, draining=False, as_json=as_json)


def _order(invocation: Invocation, name: str, *, draining: bool, as_json: bool) -> None:
    told = invocation.database.run(lambda session: order_drain(session, name, draining=draining))
    if as_json:
        output.emit({"workers": told, "draining": draining})
    else:
        does = "drain" if draining else "take work again"
        output.line(f"{plural(len(told), 'process', 'processes')} told to {does}:")
        for each in told:
            output.line(f"  {each}")


def _print(found: list[FleetWorker]) -> None:
    output.table(
        (
            Column(title="WORKER", whole=True),
            Column(title="DEVICE", elastic=True),
            Column(title="ROUTE"),
            Column(title="MODEL", elastic=True),
            Column(title="B", right=True),
            Column(title="IMAGES/S", right=True),
            Column(title="DOES"),
            Column(title="SINCE"),
        ),
        (
            (
                worker.name,
                worker.device_name or worker.device,
                worker.route,
                worker.model,
                worker.slots,
                number(worker.images_per_second) if worker.images_per_second else None,
                worker.state,
                ago(worker.since),
            )
            for worker in found
        ),
    )

"""`workers`: the fleet from here, and the orders to drain and to pin."""

import click
from sqlalchemy.orm import Session

from imagemill.db.queries.fleet.memory import list_waiting_for_memory
from imagemill.db.queries.fleet.workers import FleetWorker, list_fleet, order_drain
from imagemill.db.queries.work.pins import PinTarget, find_target
from imagemill.db.queries.work.pins import pin as pin_workers
from imagemill.db.queries.work.pins import unpin as unpin_workers
from imagemill.scheduler_jobs.cli.command_table import commands_below
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, ago, number, plural
from imagemill.scheduler_jobs.cli.display.unserved_jobs import (
    gibibytes,
    print_no_worker,
    print_too_large,
)
from imagemill.scheduler_jobs.cli.group import LazyGroup
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation


@click.group(cls=LazyGroup, table=commands_below("workers"), invoke_without_command=True)
@pass_invocation
@click.option(
    "--all", "gone", is_flag=True, help="Also those that were lost or stopped within the last day."
)
@output.json_option
@click.pass_context
def workers(ctx: click.Context, invocation: Invocation, gone: bool, as_json: bool) -> None:
    """List the workers that are alive, and what each does.

    One line a process: its device (and a GPU's memory), its route if one has another than
    `default`, what it renders, B (the images of one forward pass), images/s over the last minute,
    and since when it does that. In a window too narrow for that, a line for each of these. A worker
    that gives no signs of life is `lost` after 45 s; after two minutes only --all lists it.

    \b
    Example:
      imagemill workers
    """
    if ctx.invoked_subcommand is not None:
        return
    with invocation.reading() as session:
        found = list_fleet(session, gone=gone)
        too_large = list_waiting_for_memory(session)
    if as_json:
        output.emit({"workers": found, "too_large": too_large})
    elif not found:
        print_no_worker()
    else:
        _print(found)
        print_too_large(too_large)


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


@click.command()
@pass_invocation
@click.argument("name")
@click.argument("target", metavar="JOB|MODEL")
@output.json_option
def pin(invocation: Invocation, name: str, target: str, as_json: bool) -> None:
    """Let a worker take only the images of one job or model.

    NAME is as for `imagemill workers drain`. JOB is an id, a name or `latest`; `job:TEXT` and
    `model:TEXT` say which is meant. The worker finishes what it holds. Other workers may take the
    job's images as well.

    \b
    Examples:
      imagemill workers pin gpu@box 12
      imagemill workers pin box model:sd15
    """

    def work(session: Session) -> tuple[PinTarget, list[str]]:
        found = find_target(session, target)
        return found, pin_workers(session, name, found)

    found, told = invocation.database.run(work)
    if as_json:
        output.emit({"workers": told, "pinned": found})
    else:
        _print_told(told, f"take only images of {found}")


@click.command()
@pass_invocation
@click.argument("name")
@output.json_option
def unpin(invocation: Invocation, name: str, as_json: bool) -> None:
    """Let a pinned worker take all work again.

    \b
    Example:
      imagemill workers unpin gpu@box
    """
    told = invocation.database.run(lambda session: unpin_workers(session, name))
    if as_json:
        output.emit({"workers": told, "pinned": None})
    else:
        _print_told(told, "take all work")


def _order(invocation: Invocation, name: str, *, draining: bool, as_json: bool) -> None:
    told = invocation.database.run(lambda session: order_drain(session, name, draining=draining))
    if as_json:
        output.emit({"workers": told, "draining": draining})
    else:
        _print_told(told, "drain" if draining else "take work again")


def _print_told(told: list[str], does: str) -> None:
    output.line(f"{plural(len(told), 'process', 'processes')} told to {does}:")
    for each in told:
        output.line(f"  {each}")


def _print(found: list[FleetWorker]) -> None:
    pinned = any(worker.pinned_as for worker in found)
    cards = any(worker.memory_bytes for worker in found)
    routes = any(worker.route != "default" for worker in found)
    output.table(
        (
            Column(title="WORKER", whole=True),
            Column(title="DEVICE", elastic=True),
            *([Column(title="GIB", right=True)] if cards else []),
            *([Column(title="ROUTE")] if routes else []),
            Column(title="MODEL", whole=True),
            Column(title="B", right=True),
            Column(title="IMAGES/S", right=True),
            Column(title="DOES"),
            Column(title="SINCE"),
            *([Column(title="PINNED TO", whole=True)] if pinned else []),
        ),
        (
            (
                worker.name,
                (worker.device_name or worker.device).removeprefix("NVIDIA "),
                *(
                    [worker.memory_bytes and gibibytes(worker.memory_bytes).removesuffix(" GiB")]
                    if cards
                    else []
                ),
                *([worker.route] if routes else []),
                worker.model,
                worker.slots,
                number(worker.images_per_second) if worker.images_per_second else None,
                worker.state,
                ago(worker.since),
                *([_pin(worker)] if pinned else []),
            )
            for worker in found
        ),
    )


def _pin(worker: FleetWorker) -> str | None:
    if worker.pinned_model is not None:
        return f"model {worker.pinned_model}"
    return None if worker.pinned_job_id is None else f"job {worker.pinned_job_id}"

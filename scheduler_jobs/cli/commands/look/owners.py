"""`owners`: who shares the workers, and by which weights."""

from typing import Any

import click

from imagemill.db.queries.fleet.owners import list_owners, weigh_owner
from imagemill.scheduler_jobs.cli.arguments import whole
from imagemill.scheduler_jobs.cli.command_table import commands_below
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column
from imagemill.scheduler_jobs.cli.group import LazyGroup
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.owners import MOST_WEIGHT, read_owner


@click.group(cls=LazyGroup, table=commands_below("owners"), invoke_without_command=True)
@pass_invocation
@output.json_option
@click.pass_context
def owners(ctx: click.Context, invocation: Invocation, as_json: bool) -> None:
    """List the owners of jobs, their weights, and what each has in work.

    One line for everybody with open jobs or with a weight of their own.

    \b
    Example:
      imagemill owners
    """
    if ctx.invoked_subcommand is not None:
        return
    with invocation.reading() as session:
        found = list_owners(session)
    if as_json:
        output.emit({"owners": found})
    elif not found:
        output.line("nobody has an open job")
    else:
        output.table(
            (
                Column(title="OWNER", elastic=True, whole=True),
                Column(title="WEIGHT", right=True),
                Column(title="OPEN JOBS", right=True),
                Column(title="READY", right=True),
                Column(title="IN WORK", right=True),
            ),
            (
                (
                    each.name or "(unknown)",
                    each.weight,
                    f"{each.open_jobs:,}",
                    f"{each.ready:,}",
                    f"{each.leased:,}",
                )
                for each in found
            ),
        )


def _owner(ctx: click.Context, param: click.Parameter, text: Any) -> str:
    del ctx, param
    return read_owner(str(text))


@click.command()
@pass_invocation
@click.argument("owner", callback=_owner)
@click.argument("weight", type=int, callback=whole(1, MOST_WEIGHT))
@output.json_option
def weigh(invocation: Invocation, owner: str, weight: int, as_json: bool) -> None:
    """Give an owner a larger or smaller share of the workers.

    Everybody has the weight 1 at first. WEIGHT is from 1 to 1000; it counts from the next claim on.

    \b
    Example:
      imagemill owners weigh anna 3
    """
    invocation.database.run(lambda session: weigh_owner(session, owner, weight))
    if as_json:
        output.emit({"owner": owner, "weight": weight})
    else:
        output.line(f"owner {owner} has the weight {weight}")

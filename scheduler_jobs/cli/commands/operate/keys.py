"""`keys`: who may use `imagemill serve`."""

import re
import secrets

import click

from imagemill.db.errors import UsageError
from imagemill.db.queries.api.keys import ROLES, KeyReport, add_key, list_keys, revoke_key
from imagemill.db.tables import OWNER_CHARACTERS
from imagemill.scheduler_jobs.cli.command_table import commands_below
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, ago
from imagemill.scheduler_jobs.cli.group import LazyGroup
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{OWNER_CHARACTERS - 1}}}")


@click.group(cls=LazyGroup, table=commands_below("keys"), invoke_without_command=True)
@pass_invocation
@output.json_option
@click.pass_context
def keys(ctx: click.Context, invocation: Invocation, as_json: bool) -> None:
    """List the keys of `imagemill serve`: roles and limits.

    A key is a bearer token. The database has only its hash, so nobody can read it there.

    \b
    Example:
      imagemill keys
    """
    if ctx.invoked_subcommand is not None:
        return
    with invocation.reading() as session:
        found = list_keys(session)
    if as_json:
        output.emit({"api_keys": found})
    elif not found:
        output.line("there are no keys; `imagemill keys add NAME` makes one")
    else:
        _print(found)


@click.command()
@pass_invocation
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="submit",
    show_default=True,
    help="read: look at everything. submit: render, and see what is its own. admin: everything.",
)
@click.option(
    "--images-a-day",
    type=click.IntRange(1),
    metavar="N",
    help="At most so many images in a day of UTC.",
)
@click.option(
    "--open-images",
    type=click.IntRange(1),
    metavar="N",
    help="At most so many images at once that are not rendered yet.",
)
@output.json_option
def add(
    invocation: Invocation,
    name: str,
    role: str,
    images_a_day: int | None,
    open_images: int | None,
    as_json: bool,
) -> None:
    """Make a key for `imagemill serve`, and show it once.

    NAME says whose it is. Names of revoked keys are not used again.

    \b
    Example:
      imagemill keys add alice --images-a-day 5000
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name[:80]!r}: a name is letters, digits, '.', '_' and '-', at most "
            f"{OWNER_CHARACTERS} characters"
        )
    secret = f"imk_{secrets.token_urlsafe(32)}"
    with invocation.database.writing() as session:
        add_key(
            session,
            name=name,
            secret=secret,
            role=role,
            images_a_day=images_a_day,
            open_images=open_images,
        )
    if as_json:
        output.emit({"api_key": name, "role": role, "secret": secret})
    else:
        output.line(secret)
        output.line("it is shown this once; the database has only its hash", error=True)


@click.command()
@pass_invocation
@click.argument("name")
@output.json_option
def revoke(invocation: Invocation, name: str, as_json: bool) -> None:
    """Let a key open nothing any more.

    It ends with the next request. What it has asked for is rendered; `imagemill cancel` ends that.

    \b
    Example:
      imagemill keys revoke alice
    """
    revoked = invocation.database.run(lambda session: revoke_key(session, name))
    if as_json:
        output.emit({"api_key": name, "revoked": revoked})
    else:
        output.line(f"{name} is revoked" if revoked else f"{name} was revoked already")


def _print(found: list[KeyReport]) -> None:
    output.table(
        (
            Column(title="KEY", whole=True),
            Column(title="ROLE"),
            Column(title="IMAGES A DAY", right=True),
            Column(title="OPEN IMAGES", right=True),
            Column(title="MADE"),
            Column(title="REVOKED"),
        ),
        (
            (
                key.name,
                key.role,
                key.images_a_day,
                key.open_images,
                ago(key.created_at),
                ago(key.revoked_at) if key.revoked_at else None,
            )
            for key in found
        ),
    )

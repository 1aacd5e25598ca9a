"""Arguments of several commands: a job by id, name or `latest`, and numbers within bounds."""

from collections.abc import Callable
from typing import Any

import click

from imagemill.db.errors import UnknownJob

MOST_ID = 2**63 - 1
"""The largest number that a BIGINT column holds."""


def job_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """The argument JOB of a command, as `find_job` takes it."""
    return click.argument("job", callback=_storable_reference, required=required)


def whole(low: int, high: int = MOST_ID) -> Callable[..., int | None]:
    """A callback for an option of type int that must be in [low, high].

    `click.IntRange` does the same, but prints the limit's 19 digits into every help text.
    """

    def check(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            raise click.BadParameter(f"{value} is not from {low} to {high}", ctx, param)
        return value

    return check


def at_most(characters: int) -> Callable[..., str | None]:
    """A callback for an option whose text a column of that length must hold."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None and len(value) > characters:
            raise click.BadParameter(
                f"{len(value):,} characters; allowed: at most {characters}", ctx, param
            )
        return value

    return check


def _storable_reference(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!a} is no job's name", ctx, param) from None
    if value.isdecimal() and int(value) > MOST_ID:
        raise UnknownJob(f"no job {value}; `imagemill jobs` lists them")
    return value

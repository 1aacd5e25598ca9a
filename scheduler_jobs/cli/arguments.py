"""Arguments of several commands: a job by id, name or `latest`, and numbers within bounds."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from imagemill.db.errors import UnknownJob
from imagemill.scheduler_jobs.cli.value_types import MOST_ID

_AGE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhdw])")
_UNITS = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400})


def job_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """The argument JOB of a command, as `find_job` takes it."""
    return click.argument("job", callback=storable_reference, required=required)


def jobs_argument() -> Callable[[Any], Any]:
    """The argument JOB… of a command: one or several jobs, as `find_job` takes them."""
    return click.argument(
        "jobs", nargs=-1, required=True, metavar="JOB...", callback=_storable_references
    )


labels_option = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only jobs with this label, with any value if only KEY is given; may be repeated.",
)


def listen_options(*, port: int) -> Callable[[Any], Any]:
    """The options `--host` and `--port` of a command that serves; `port` if it is left out."""

    def with_options(command: Any) -> Any:
        host = click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            metavar="ADDRESS",
            help="The address to listen on.",
        )
        number = click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=port,
            show_default=True,
            metavar="N",
            help="The port; 0 takes a free one.",
        )
        return host(number(command))

    return with_options


def output_option(help_text: str) -> Callable[[Any], Any]:
    """The option `--output FILE` of a command that writes one file; its parameter is `file`."""
    return click.option(
        "-o",
        "--output",
        "file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=help_text,
    )


def age(ctx: click.Context, param: click.Parameter, value: str) -> timedelta:
    """A callback for an option that is an age: a number and its unit (`30d`, `12h`)."""
    found = _AGE.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(
            f"{value!r} is no age; allowed: a number and s, m, h, d or w, such as 30d", ctx, param
        )
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise click.BadParameter(f"{value!r} is too long ago", ctx, param) from None


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


def _storable_references(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(storable_reference(ctx, param, value) or "" for value in values)


def storable_reference(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A callback for an argument that names a job: a text that a database can look for."""
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!a} is no job's name", ctx, param) from None
    if value.isdecimal() and int(value) > MOST_ID:
        raise UnknownJob(f"no job {value}; `imagemill jobs` lists them")
    return value

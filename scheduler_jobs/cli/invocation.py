"""One run of a command: its settings and its database, opened at first use."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click
from sqlalchemy import exc
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.engines import sqlite_file
from imagemill.db.errors import DatabaseError, UsageError, first_line
from imagemill.db.given_settings import (
    DATABASE_FILE,
    DATABASE_URL,
    ENVIRONMENT_FILE,
    named_database,
)
from imagemill.db.schema import ensure_schema
from imagemill.scheduler_jobs.cli.group import GlobalOptions

if TYPE_CHECKING:
    from imagemill.db.settings import Settings

MOST_HOMES = 3
"""How many folders with a database an error names."""

P = ParamSpec("P")
T = TypeVar("T")


class Invocation:
    """The context of one command: the values of the global options, settings and database."""

    def __init__(self, options: GlobalOptions) -> None:
        self.home = options.home
        self.verbose = options.verbose

    @cached_property
    def settings(self) -> "Settings":
        """The settings. `--home` and `--config` have put their values into the environment."""
        # A quarter of the time of `status`, which needs no more than the database's address.
        from imagemill.db.settings import Settings  # noqa: PLC0415  # see above

        return Settings.load()

    @cached_property
    def database_url(self) -> str:
        """The database's address. Other settings are read only where a file may be wrong."""
        return named_database() or self.settings.database_url.get_secret_value()

    @cached_property
    def database(self) -> Database:
        """The database. Raises `UsageError` if it does not exist or its schema is not known."""
        database = open_database(self.database_url)
        click.get_current_context().call_on_close(database.close)
        ensure_schema(database)
        return database

    @property
    def database_file(self) -> Path | None:
        """The file of a SQLite database."""
        return sqlite_file(self.database_url)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read transaction."""
        with self.database.reading() as session:
            yield session


def open_database(url: str) -> Database:
    """The database. Raises `UsageError` if it should be a file that does not exist."""
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        # Connecting would create an empty database in the current folder.
        raise UsageError(
            f"there is no database {file}; {_of_stack(url)}{_of_folders()}, `imagemill migrate` "
            "creates this one, IMAGEMILL_DATABASE_URL names another"
        )
    return Database(url)


def _of_stack(url: str) -> str:
    """How to find the database of `imagemill up`, for who named none and has one."""
    # Only this error needs it, and every command imports this module.
    from imagemill.scheduler_jobs.stack.home import StackHome  # noqa: PLC0415  # see above

    with suppress(OSError, RuntimeError):  # a user without a home, or one that can't be read
        if url == DATABASE_URL and StackHome.at(None).plan.is_file():
            return '`eval "$(imagemill env)"` finds that of `imagemill up`, '
    return ""


def _of_folders() -> str:
    """How to find the database of `imagemill run`: in which folders here one is, if any."""
    found: set[str] = set()
    with suppress(OSError):  # a folder that can't be read
        for name in (DATABASE_FILE, ENVIRONMENT_FILE):
            found.update(file.parent.name for file in Path().glob(f"*/{name}"))
    if not found:
        return "--home DIR finds that of `imagemill run --out DIR`"
    homes = [f"--home {shlex.quote(name)}" for name in sorted(found)[:MOST_HOMES]]
    return f"{' or '.join(homes)} finds one that is here"


def pass_invocation(
    command: Callable[Concatenate[Invocation, P], T],
) -> Callable[P, T]:
    """Pass an `Invocation` to a command, and raise `DatabaseError` for a lost database."""

    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        options: Any = click.get_current_context().find_object(GlobalOptions) or GlobalOptions()
        invocation = Invocation(options)
        try:
            return command(invocation, *args, **kwargs)
        except (exc.OperationalError, exc.InterfaceError) as error:
            said = first_line(error.orig or error)
            raise DatabaseError(f"the database did not answer: {said}") from error

    return update_wrapper(called, command)

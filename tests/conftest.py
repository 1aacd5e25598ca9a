"""Fixtures for every test: real servers, started when the first test asks, and fresh places
on them for each test.

Servers live as long as the session; databases, key prefixes and folders as long as a test.
No test sees the developer's own settings or AWS account: see `own_environment_only`.
"""

import gc
import itertools
import os
import secrets
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from tests.helpers.places import ROOT
from tests.helpers.processes.forks import SharedServers, shared_folder, suits

if TYPE_CHECKING:
    from imagemill.db.storage.s3 import S3Storage
    from tests.helpers.http.browser import Browser, Chromium
    from tests.helpers.servers.postgres import Postgres
    from tests.helpers.servers.seaweedfs import Seaweed
    from tests.helpers.servers.valkey import Valkey


# One thread for each process, as workers on a CPU have it: several processes render at once.
os.environ["OMP_NUM_THREADS"] = "1"

# What is imported for the tests, and the tests themselves, stay: a million objects. To look for
# garbage among them takes a second, and tests make it happen all the time.
gc.disable()

_NEW_OBJECTS = 50_000
"""After how many of them garbage is searched for; Python's 700 take a twentieth of all tests."""


def pytest_configure(config: pytest.Config) -> None:
    """Let the processes of a run share what takes each of them seconds to import.

    Where whole folders are tested, each would import torch: they are forks of one that has.
    """
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        servers = SharedServers()
        config.add_cleanup(servers.close)
        folders = all(Path(each).is_dir() for each in config.args)
        if folders and find_spec("torch") is not None and suits(os.environ):
            config.option.tx = [f"popen//python={servers.python()}" for _ in config.option.tx]


def pytest_collection_finish() -> None:
    """Leave what is there out of every search for garbage, and search less often than usual."""
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def own_environment_only() -> Iterator[None]:
    """Hide the developer's `IMAGEMILL_*` and `AWS_*` variables, files and instance roles.

    Session-wide, so that session fixtures and the processes they start are covered as well.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("IMAGEMILL_", "AWS_")):
                patch.delenv(name)
        patch.setenv("IMAGEMILL_CONFIG", os.devnull)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # What runs remember there, and a stack, must not come from the developer's own.
        with tempfile.TemporaryDirectory(prefix="imagemill-test-cache-") as own:
            patch.setenv("XDG_CACHE_HOME", str(shared_folder() or own))
            patch.setenv("XDG_DATA_HOME", own)
            yield


@pytest.fixture(autouse=True)
def environment_of_its_own() -> Iterator[None]:
    """Take back what a test, or a command called in this process, puts into the environment.

    `--home` and `run --out` set variables for the rest of their process, which is the tests' here.
    """
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Let SIGINT interrupt what tests start, also where they run in the background of a script.

    A shell starts background commands with SIGINT ignored, and every child would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def statements_are_compiled_once() -> Iterator[None]:
    """Let all databases of a kind share what SQLAlchemy makes of a statement.

    It keeps that for each engine, and each test opens another: it took a quarter of their time.
    """
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

    from imagemill.db import engines

    kept: dict[type, Any] = {}
    create_engine = engines.create_engine

    def sharing(*arguments: Any, **options: Any) -> Any:
        engine = create_engine(*arguments, **options)
        kind = type(engine.dialect)
        engine._compiled_cache = kept.setdefault(kind, engine._compiled_cache)
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "create_engine", sharing)
        for kind in (PGDialect_psycopg, SQLiteDialect_pysqlite):
            # What is kept is found by the dialect, among others.
            patch.setattr(kind, "__hash__", lambda self: hash(type(self)))
            patch.setattr(kind, "__eq__", lambda self, other: type(self) is type(other))
        yield


@pytest.fixture(autouse=True)
def turns_without_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the older of two jobs with equal shares go first, so that a test knows who is next.

    Production draws lots between them; `tests/contract/claiming/test_turns.py` does so too.
    """
    order = itertools.count()
    lots = SimpleNamespace(expovariate=lambda _: 1e-9 * next(order))
    monkeypatch.setattr("imagemill.db.queries.work.turns.random", lots)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass through: as root, PostgreSQL may run as `nobody`."""
    with tempfile.TemporaryDirectory(prefix="imagemill-stack-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


_WAITING = ("e2e", "integration", "chaos", "security", "simulation")
"""Folders whose files wait most: for processes, leases, servers. The longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start files that wait and files that compute in turns, so that no core is idle for long.

    What waits longest begins first: at the end, no process is left alone with it.
    """
    folders = {item.path: item.path.relative_to(ROOT).parts[1] for item in items}
    waiting = {path for path, folder in folders.items() if folder in _WAITING}
    waiting |= {item.path for item in items if item.get_closest_marker("commands")}
    order = {folder: place for place, folder in enumerate(_WAITING)}
    first = sorted(waiting, key=lambda path: (order.get(folders[path], len(order)), path))
    others = [path for path in folders if path not in waiting]
    turns = chain.from_iterable(zip_longest(first, others))
    place = {path: number for number, path in enumerate(turns)}
    items.sort(key=lambda item: place[item.path])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was missing here: how many tests were skipped, by reason."""
    skipped = terminalreporter.stats.get("skipped", ())
    reasons = Counter(report.longrepr[-1].removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


# Servers -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["Postgres"]:
    from tests.helpers.servers.postgres import Postgres

    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator["Valkey"]:
    from tests.helpers.servers.valkey import Valkey

    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator["Seaweed"]:
    """An S3 server, and clients of which only the first reads what boto3 knows of the protocol.

    Reading it takes a tenth of a second, and there is a client for each test.
    """
    from botocore import session

    from tests.helpers.servers.seaweedfs import Seaweed

    with pytest.MonkeyPatch.context() as patch, Seaweed() as server:
        patch.setattr(session, "create_loader", cache(session.create_loader))
        yield server


# A browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chromium"]:
    """A headless browser. Skipped where there is none."""
    from tests.helpers.http.browser import Chromium, find_browser

    program = find_browser()
    if program is None:
        pytest.skip("no Chromium or Chrome here")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def browser(chromium: "Chromium") -> Iterator["Browser"]:
    """A page that shares nothing with another test's but the program."""
    from tests.helpers.http.browser import Browser

    with Browser(chromium) as page:
        page.resize(1280, 800)
        yield page


# Databases ---------------------------------------------------------------------------------


@pytest.fixture
def postgres_url(postgres_server: "Postgres") -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: "Postgres") -> Iterator[str]:
    """The name of an empty PostgreSQL database with the schema, migrated once a process."""
    from imagemill.db.database import Database
    from imagemill.db.schema import migrate

    url = postgres_server.create_database()
    database = Database(url)
    migrate(database)
    database.close()
    yield url.rpartition("/")[2]
    postgres_server.drop_database(url)


@pytest.fixture
def migrated_url(postgres_server: "Postgres", postgres_template: str) -> Iterator[str]:
    """The URL of a new PostgreSQL database with the schema."""
    url = postgres_server.create_database(template=postgres_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'imagemill.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty database: once SQLite, once PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


# The broker --------------------------------------------------------------------------------


@pytest.fixture
def broker_url(valkey_server: "Valkey") -> str:
    """The Celery URL of an empty Valkey database."""
    return valkey_server.fresh_url()


# Storage -----------------------------------------------------------------------------------


@pytest.fixture
def folder_storage(tmp_path: Path) -> FolderStorage:
    """A folder store that nothing was put into yet."""
    root = tmp_path / "objects"
    root.mkdir()
    return FolderStorage(root)


@pytest.fixture
def s3_environment(s3_server: "Seaweed", monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set the credentials of the S3 server; what a child process needs to reach it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.environment


@pytest.fixture
def s3_storage_url(s3_server: "Seaweed", s3_environment: dict[str, str]) -> str:
    """An `s3://` URL with a prefix that nothing is stored under yet."""
    return f"s3://{s3_server.bucket}/test-{secrets.token_hex(6)}"


@pytest.fixture
def s3_storage(s3_server: "Seaweed", s3_storage_url: str) -> "S3Storage":
    """An S3 store that nothing was put into yet."""
    from imagemill.db.storage.s3 import S3Storage

    bucket, _, prefix = s3_storage_url.removeprefix("s3://").partition("/")
    return S3Storage(bucket, prefix, endpoint_url=s3_server.endpoint)


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """An empty store: once a folder, once S3."""
    store: Storage = request.getfixturevalue(f"{request.param}_storage")
    return store

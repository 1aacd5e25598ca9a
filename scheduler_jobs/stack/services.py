"""The table of a stack's services: what each is, what must run before it, where it answers.

A new service is one entry here. Services stop in the opposite order: one that others come after
ends last, so workers drain while the database is there.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.local.seaweedfs import PORTS, S3_PORT, SeaweedServer
from imagemill.scheduler_jobs.local.valkey import EmbeddedValkey
from imagemill.scheduler_jobs.stack.database import StackPostgres
from imagemill.scheduler_jobs.stack.environment import (
    BUCKET,
    Role,
    access_key,
    addresses,
    exports,
    inherited,
)
from imagemill.scheduler_jobs.stack.home import StackHome, write_private
from imagemill.scheduler_jobs.stack.plan import Plan
from imagemill.scheduler_jobs.stack.program import Program

_SERVERS = ("postgres", "valkey", "seaweedfs")
_DRAIN_MARGIN_SECONDS = 10
"""How much longer than its drain a worker may take, before it is killed."""


class Runnable(Protocol):
    """A process that can be started again and again. `start` returns when it can be used."""

    @property
    def pid(self) -> int | None:
        """Its process id."""

    @property
    def running(self) -> bool:
        """Whether its process is there."""

    @property
    def exit_status(self) -> int | None:
        """How its process ended, as `Popen.poll` says it; None while it runs."""

    def start(self) -> None:
        """Start it. Raises `ImagemillError` if it does not work."""

    def stop(self) -> None:
        """End it in good order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One entry. It starts when every service in `after` runs. `address` is for people."""

    name: str
    program: Runnable
    after: tuple[str, ...] = ()
    address: str | None = None


def service_names(plan: Plan) -> tuple[str, ...]:
    """The names of a stack's services, in the order in which they start."""
    if plan.first is not None:
        return ("tunnel", *plan.worker_names)
    tunnel = () if plan.listen is None else ("tunnel",)
    return (*_SERVERS, *tunnel, "dispatcher", "flower", "gallery", "serve", *plan.worker_names)


def stack_services(home: StackHome, plan: Plan) -> tuple[Service, ...]:
    """Everything that a stack runs, in the order in which it starts."""
    if plan.first is not None:
        return (_joined_tunnel(home, plan), *_worker_services(home, plan, after=("tunnel",)))
    ports = plan.ports
    front = (
        Service(
            name="dispatcher",
            program=_command(home, plan, "dispatcher", flag="--metrics-port"),
            after=("postgres", "valkey"),
            address=_metrics(plan, "dispatcher"),
        ),
        Service(
            name="flower",
            program=_command(home, plan, "flower"),
            after=("valkey",),
            address=f"http://{LOOPBACK}:{ports['flower']}/",
        ),
        Service(
            name="gallery",
            program=_command(home, plan, "gallery"),
            after=("postgres", "seaweedfs"),
            address=f"http://{LOOPBACK}:{ports['gallery']}/",
        ),
        Service(
            name="serve",
            program=_command(home, plan, "serve", "--metrics-port", str(ports["serve_metrics"])),
            after=("postgres", "seaweedfs"),
            address=f"http://{LOOPBACK}:{ports['serve']}/v1",
        ),
    )
    tunnel = () if plan.listen is None else (_tunnel(home, plan),)
    # Workers come after the dispatcher, so that they drain before it ends.
    workers = _worker_services(home, plan, after=(*_SERVERS, "dispatcher"))
    return (*_servers(home, plan), *tunnel, *front, *workers)


def _worker_services(home: StackHome, plan: Plan, *, after: tuple[str, ...]) -> tuple[Service, ...]:
    drain = Settings.load().drain_seconds + _DRAIN_MARGIN_SECONDS
    children = () if plan.children is None else ("--children", str(plan.children))
    return tuple(
        Service(
            name=name,
            program=Program(
                [
                    *("imagemill.worker", "--name", name),
                    *("--metrics-port", str(plan.ports[name]), *children),
                ],
                environment=_environment(plan, "worker"),
                log=home.log(name),
                port=plan.ports[name],
                stop_seconds=drain,
            ),
            after=after,
            address=_metrics(plan, name),
        )
        for name in plan.worker_names
    )


def _tunnel(home: StackHome, plan: Plan) -> Service:
    """Where other machines reach the three servers."""
    address, port = plan.listening()
    program = Program(
        ["imagemill.scheduler_jobs.stack.tunnel", str(home.path)],
        environment=inherited(os.environ),
        log=home.log("tunnel"),
        port=port,
        address=address,
    )
    return Service(name="tunnel", program=program, after=_SERVERS, address=f"{plan.listen} (TLS)")


def _joined_tunnel(home: StackHome, plan: Plan) -> Service:
    """The way to the first machine's servers."""
    assert plan.first is not None
    program = Program(
        ["imagemill.scheduler_jobs.stack.tunnel", str(home.path)],
        environment=inherited(os.environ),
        log=home.log("tunnel"),
        port=plan.ports["postgres"],
    )
    place = f"{plan.first['host']}:{plan.first['port']} (TLS)"
    return Service(name="tunnel", program=program, address=place)


def _servers(home: StackHome, plan: Plan) -> tuple[Service, ...]:
    ports = plan.ports
    seaweed = SeaweedServer(
        home.data("seaweedfs"),
        ports={name: ports[name] for name in PORTS},
        bucket=BUCKET,
        access_key=access_key("producer"),
        secret_key=plan.secrets["s3_producer"],
        log=home.log("seaweedfs"),
        identities=home.data("seaweedfs") / "identities.json",
    )
    write_private(home.data("seaweedfs") / "identities.json", _identities(plan.secrets))
    valkey = EmbeddedValkey(
        home.data("valkey"),
        port=ports["valkey"],
        password=plan.secrets["broker"],
        log=home.log("valkey"),
    )
    return (
        Service(
            name="postgres",
            program=StackPostgres(home, plan),
            address=f"{LOOPBACK}:{ports['postgres']}",
        ),
        Service(name="valkey", program=valkey, address=f"{LOOPBACK}:{ports['valkey']}"),
        Service(name="seaweedfs", program=seaweed, address=f"http://{LOOPBACK}:{ports[S3_PORT]}"),
    )


def _identities(secrets: Mapping[str, str]) -> dict[str, object]:
    """Who may do what in the bucket. Nobody may make, remove or open one."""
    actions = {
        "producer": ("Read", "Write", "List"),
        "worker": ("Read", "Write", "List"),
        "reader": ("Read", "List"),
    }
    return {
        "identities": [
            {
                "name": role,
                "credentials": [
                    {"accessKey": access_key(role), "secretKey": secrets[f"s3_{role}"]}
                ],
                "actions": [f"{action}:{BUCKET}" for action in allowed],
            }
            for role, allowed in actions.items()
        ]
    }


def _command(
    home: StackHome, plan: Plan, name: str, *options: str, flag: str = "--port"
) -> Program:
    """A command of `imagemill` that the producer's role runs; `flag` says what its port is for."""
    port = plan.ports[name]
    return Program(
        ["imagemill", name, flag, str(port), *options],
        environment=_environment(plan, "producer"),
        log=home.log(name),
        port=port,
    )


def _metrics(plan: Plan, name: str) -> str:
    """Where Prometheus reads what a process counts."""
    return f"http://{LOOPBACK}:{plan.ports[name]}/metrics"


def _environment(plan: Plan, role: Role) -> dict[str, str]:
    known = exports(plan) if role == "producer" else addresses(plan, role)
    # Also where the user's imagemill.toml names another address: a variable wins over it.
    return {**inherited(os.environ), "IMAGEMILL_METRICS_ADDRESS": LOOPBACK, **known}

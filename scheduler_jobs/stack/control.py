"""Bringing a stack up and down from a command: it starts the supervisor and tells it what to do."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagemill.db.errors import ServiceError, UsageError
from imagemill.scheduler_jobs.local.ports import is_free
from imagemill.scheduler_jobs.local.postgres import postgres_binaries
from imagemill.scheduler_jobs.local.seaweedfs import weed_binary
from imagemill.scheduler_jobs.local.server import last_line
from imagemill.scheduler_jobs.local.valkey import valkey_binary
from imagemill.scheduler_jobs.stack.certificate import (
    certificate_files,
    fingerprint,
    make_certificate,
)
from imagemill.scheduler_jobs.stack.environment import exports, inherited, own_settings
from imagemill.scheduler_jobs.stack.home import StackHome, open_private, write_private
from imagemill.scheduler_jobs.stack.plan import Plan, await_release, listening_place
from imagemill.scheduler_jobs.stack.services import service_names
from imagemill.scheduler_jobs.stack.state import ServiceReport, ServiceState, read_state
from imagemill.scheduler_jobs.stack.token import JoinToken
from imagemill.scheduler_jobs.stack.tunnel import greet

_UP_SECONDS = 300
_DOWN_SECONDS = 180
"""How long nothing may stop before `down` gives up."""

_TELL_SECONDS = 15
"""How often `down` says what it waits for."""

_LOOK_SECONDS = 0.1

_MOST_RESTARTS = 3

NO_LISTENING = "none"
"""The word for `--listen` that closes the port again."""


def bring_up(
    home: StackHome, services: Collection[str] = (), *, listen: str | None = None, **asked: Any
) -> Plan:
    """Start what does not run, and return at once; the plan that runs.

    `asked` are fields of `Plan` (None: as before). With `services` only these are started again
    after a `down` of them. Raises `UsageError` if a wheel is missing, a service has no such name,
    or something else is asked for while the stack runs.
    """
    place = None if listen in {None, NO_LISTENING} else listening_place(str(listen))

    def planned(known: Plan | None) -> Plan:
        plan = (known or Plan.new()).changed(listen=place, **asked)
        if listen == NO_LISTENING:
            return replace(plan, listen=None)
        if plan.first is not None and plan.listen is not None:
            raise UsageError(f"{home.path} has joined another machine: only that one can listen")
        return plan

    known = Plan.load(home)
    if known is None or known.first is None:
        for look in (postgres_binaries, weed_binary, valkey_binary):
            look()
    return _begin(home, services, planned)


def join(home: StackHome, token: JoinToken, **asked: Any) -> Plan:
    """Start workers here for the first machine, which is asked first; the plan that runs.

    Raises `ServiceError` if it does not answer or is another one, and `UsageError` as `bring_up`.
    """
    asyncio.run(greet(token))
    new = Plan.joined(token)

    def planned(known: Plan | None) -> Plan:
        if known is None:
            return new.changed(**asked)
        if known.first is None:
            raise UsageError(f"{home.path} is a first machine's; name another with --home")
        return replace(known, first=new.first, secrets=new.secrets).changed(**asked)

    return _begin(home, (), planned)


def own_token(home: StackHome, plan: Plan) -> JoinToken:
    """The token for other machines. Raises `UsageError` if this one does not listen."""
    if plan.listen is None:
        raise UsageError(f"no other machine can join: `{home.command} up --listen ADDRESS`")
    host, port = plan.listening()
    return JoinToken(
        host=host,
        port=port,
        fingerprint=fingerprint(certificate_files(home)[0]),
        database=plan.secrets["worker"],
        broker=plan.secrets["broker"],
        s3=plan.secrets["s3_worker"],
    )


def _begin(
    home: StackHome, services: Collection[str], planned: Callable[[Plan | None], Plan]
) -> Plan:
    plan = planned(Plan.load(home))  # refused before anything is made
    home.make()
    with home.starting():
        known = Plan.load(home)
        plan = planned(known)
        check_names(plan, services)
        running = home.supervisor_pid() is not None
        if running and known is not None and plan != known:
            raise UsageError(f"{home.path} runs with other options; `{home.command} down` first")
        for name in services or service_names(plan):
            (home.parked / name).unlink(missing_ok=True)
        if not running:
            plan = plan.with_free_ports()
            _prepare_listening(home, plan)
            plan.save(home)
            write_private(home.environment, exports(plan))
            _start_supervisor(home)
    return plan


def _prepare_listening(home: StackHome, plan: Plan) -> None:
    if plan.listen is None:
        return
    address, port = plan.listening()
    await_release(port, address)
    if not is_free(port, address):
        raise UsageError(f"can't listen on {plan.listen}: no address of this machine, or taken")
    make_certificate(home)


def wait_until_up(home: StackHome, changed: Callable[[Collection[ServiceReport]], None]) -> None:
    """Wait until every service runs, but those that were stopped by name.

    `changed` is told when a service has another state. Raises `ServiceError` if one keeps ending,
    or if the supervisor has ended.
    """
    give_up = time.monotonic() + _UP_SECONDS
    seen: tuple[ServiceReport, ...] = ()
    while True:
        reports = read_state(home)
        if reports != seen:
            changed(reports)
            seen = reports
        if home.supervisor_pid() is None:
            said = last_line(home.log("supervisor"))
            raise ServiceError(f"the supervisor ended: {said}")
        awaited = [report for report in reports if not _is_settled(home, report)]
        if reports and not awaited:
            return
        failing = [each for each in reports if each.restarts >= _MOST_RESTARTS and each.reason]
        if failing or time.monotonic() > give_up:
            worst = (failing or awaited)[0]
            raise ServiceError(
                f"{worst.service} does not start: {worst.reason or worst.state}; "
                f"its log is {home.log(worst.service)}"
            )
        time.sleep(_LOOK_SECONDS)


def take_down(
    home: StackHome,
    services: Collection[str] = (),
    *,
    still: Callable[[Collection[str]], None] = lambda names: None,
) -> bool:
    """Stop the services, or all of them and the supervisor; False if nothing runs there.

    Workers drain first, for as long as their settings say; `still` is told now and then which
    services have not stopped. Raises `ServiceError` if nothing happens for too long.
    """
    plan, pid = Plan.load(home), home.supervisor_pid()
    if plan is None:
        raise UsageError(f"nothing was brought up in {home.path}")
    check_names(plan, services)
    for name in services:
        (home.parked / name).touch(mode=0o600)
    if pid is None:
        return False
    if not services:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    give_up, tell_at = time.monotonic() + _DOWN_SECONDS, time.monotonic() + _TELL_SECONDS
    while not _is_down(home, services):
        at, reports = time.monotonic(), read_state(home)
        if any(report.state is ServiceState.STOPPING for report in reports):
            give_up = at + _DOWN_SECONDS  # its supervisor ends it when its time is over
        if at > give_up:
            raise ServiceError(
                f"nothing has stopped for {_DOWN_SECONDS:.0f} s; the log is "
                f"{home.log('supervisor')}, and `imagemill ps` shows what runs"
            )
        if at > tell_at:
            tell_at = at + _TELL_SECONDS
            wanted = services or [report.service for report in reports]
            still(
                [
                    report.service
                    for report in reports
                    if report.service in wanted and report.state is not ServiceState.STOPPED
                ]
            )
        time.sleep(_LOOK_SECONDS)
    return True


def check_names(plan: Plan, services: Collection[str]) -> None:
    """Raise `UsageError` for a name that no service of the plan has."""
    names = service_names(plan)
    for name in services:
        if name not in names:
            raise UsageError(f"there is no service {name}; there are {', '.join(names)}")


def _is_down(home: StackHome, services: Collection[str]) -> bool:
    if not services:
        return home.supervisor_pid() is None
    states = {report.service: report.state for report in read_state(home)}
    return all(states.get(name) is ServiceState.STOPPED for name in services)


def _is_settled(home: StackHome, report: ServiceReport) -> bool:
    """Whether a service runs, or stands still because it was stopped by its name."""
    parked = (home.parked / report.service).exists()
    return report.state is (ServiceState.STOPPED if parked else ServiceState.RUNNING)


def _start_supervisor(home: StackHome) -> None:
    """Start it apart from this terminal, and wait until it holds the home."""
    environment = inherited(os.environ)
    environment["IMAGEMILL_CONFIG"] = own_settings(home, Path(environment["IMAGEMILL_CONFIG"]))
    home.state.unlink(missing_ok=True)
    with open_private(home.log("supervisor")) as log:
        process = subprocess.Popen(  # noqa: S603  # argv is ours, no shell
            [sys.executable, "-P", "-m", "imagemill.scheduler_jobs.stack.supervisor", home.path],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
        )
    while not (home.state.exists() and home.supervisor_pid() is not None):
        if process.poll() is not None:
            said = last_line(home.log("supervisor"))
            raise ServiceError(f"the supervisor did not start: {said}")
        time.sleep(_LOOK_SECONDS)

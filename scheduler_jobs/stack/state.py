"""What the supervisor says of each service, in a file that `ps` and `up` read."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from imagemill.scheduler_jobs.stack.home import StackHome, write_private


class ServiceState(StrEnum):
    """Where a service is. The supervisor alone moves it."""

    WAITING = "waiting"  # another service must run first
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"  # it has ended or did not start; a pause before the next try
    STOPPING = "stopping"
    STOPPED = "stopped"  # by `down`; `up` starts it again


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceReport:
    """One service: `restarts` counts since the supervisor started, `since` is of the state.

    `reason` is the last line that it said before it ended, or why it did not start.
    """

    service: str
    state: ServiceState
    pid: int | None
    address: str | None
    restarts: int
    since: datetime
    reason: str | None


def write_state(home: StackHome, reports: Iterable[ServiceReport]) -> None:
    """Replace the file."""
    services = [
        {name: getattr(each, name) for name in ServiceReport.__slots__} | {"since": str(each.since)}
        for each in reports
    ]
    write_private(home.state, {"services": services})


def read_state(home: StackHome) -> tuple[ServiceReport, ...]:
    """What was written last; nothing if there is no file.

    Where no supervisor runs (it was killed), every service is stopped: it has ended with it.
    """
    try:
        services = json.loads(home.state.read_text())["services"]
    except FileNotFoundError:
        return ()
    reports = tuple(
        ServiceReport(
            **{
                **each,
                "state": ServiceState(each["state"]),
                "since": datetime.fromisoformat(each["since"]),
            }
        )
        for each in services
    )
    if home.supervisor_pid() is not None:
        return reports
    return tuple(_ended(report) for report in reports)


def _ended(report: ServiceReport) -> ServiceReport:
    if report.state is ServiceState.STOPPED:
        return report
    return ServiceReport(
        service=report.service,
        state=ServiceState.STOPPED,
        pid=None,
        address=report.address,
        restarts=report.restarts,
        since=report.since,
        reason="the supervisor was killed",
    )


def now() -> datetime:
    """The time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)

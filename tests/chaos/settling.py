"""Whether work gets on once nothing is broken any more (I7), and what stands still if it does not.

A limit on the whole would measure the machine: a busy one takes minutes for what an idle one does
in seconds. So the promise is broken only where nothing at all moves for `STILL_SECONDS`, or where
things move but nothing ends for `ENDLESS_SECONDS`. As only so many images can end, that is bounded.
"""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol

import psutil

from tests.chaos.troupe import Actor

STILL_SECONDS = 300.0
ENDLESS_SECONDS = 1200.0

SHOWN = 12
"""Images, and jobs, of which is told one by one why they stand still."""


class Query(Protocol):
    """Asks the campaign's database; its rows."""

    def __call__(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far the work is. `ended` only grows; `moved` is anything that somebody alive changes."""

    ended: int
    moved: tuple[Any, ...]


def snapshot(query: Query) -> Snapshot:
    """How far the work of the campaign's database is. An idle worker's heartbeat is no work."""
    [(ended, *moved)] = query(
        "SELECT (SELECT count(*) FROM rows)"
        " + (SELECT count(*) FROM images WHERE state IN ('done', 'dead', 'cancelled'))"
        " + (SELECT count(*) FROM jobs WHERE state = 'finished'),"
        " (SELECT count(*) FROM images),"
        " (SELECT count(*) FROM images WHERE state = 'leased'),"
        " (SELECT max(id) FROM attempts),"
        " (SELECT max(id) FROM shifts),"
        " (SELECT max(lease_until) FROM shifts WHERE ended_at IS NULL)"
    )
    return Snapshot(ended=ended, moved=tuple(moved))


class Settling:
    """Hears of every look at the work, and says when the promise is broken."""

    def __init__(
        self,
        *,
        still_seconds: float = STILL_SECONDS,
        endless_seconds: float = ENDLESS_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._still_seconds = still_seconds
        self._endless_seconds = endless_seconds
        self._clock = clock
        self._last: Snapshot | None = None
        self._looked_at = self._moved_at = self._ended_at = clock()
        self._longest_pause = 0.0

    def look(self, found: Snapshot) -> str | None:
        """What is broken, in one line; None while work gets on or may still do so."""
        now = self._clock()
        self._longest_pause = max(self._longest_pause, now - self._looked_at)
        self._looked_at = now
        if self._last is None or found.ended != self._last.ended:
            self._ended_at = self._moved_at = now
        elif found.moved != self._last.moved:
            self._moved_at = now
        self._last = found
        still, endless = now - self._moved_at, now - self._ended_at
        if still >= self._still_seconds:
            return f"nothing moved for {still:.0f} s, {self._machine()}"
        if endless >= self._endless_seconds:
            return f"leases came and went, but nothing ended for {endless:.0f} s, {self._machine()}"
        return None

    def _machine(self) -> str:
        """How busy the machine is: without a processor nobody gets on."""
        load, cores = os.getloadavg()[0], os.cpu_count()
        pause = self._longest_pause
        return f"load {load:.0f} on {cores} cores, longest time between two looks {pause:.1f} s"


def standing_still(query: Query, actors: Collection[Actor]) -> list[str]:
    """What is not over yet and whose it is, and the heartbeat of every process; a line for each."""
    pids = {actor.pid for actor in actors}
    return [*_images(query, pids), *_jobs(query, actors), *_heartbeats(query, actors)]


def _images(query: Query, pids: Collection[int]) -> list[str]:
    open_images = query(
        "SELECT i.id, i.state, i.suspect, i.failures,"
        " extract(epoch FROM i.not_before - clock_timestamp())::float8,"
        " j.name, s.id, w.pid, extract(epoch FROM s.lease_until - clock_timestamp())::float8"
        " FROM images i JOIN jobs j ON j.id = i.job_id LEFT JOIN shifts s ON s.id = i.shift_id"
        " LEFT JOIN workers w ON w.id = s.worker_id"
        " WHERE i.state IN ('ready', 'leased') ORDER BY i.id"
    )
    lines = []
    for image, state, suspect, failures, due, job, shift, pid, left in open_images[:SHOWN]:
        line = f"image {image} of {job} is {state}{' (a suspect)' * suspect}, {failures} losses"
        if due is not None and due > 0:
            line += f", not before {due:.1f} s from now"
        if shift is not None:
            alive = "alive" if pid in pids else "dead"
            line += f", held by shift {shift} of process {pid} ({alive}), lease {left:+.1f} s"
        lines.append(line)
    if len(open_images) > SHOWN:
        lines.append(f"… and {len(open_images) - SHOWN} more images")
    return lines


def _jobs(query: Query, actors: Collection[Actor]) -> list[str]:
    found = query(
        "SELECT j.name, j.state, (SELECT count(*) FROM rows r WHERE r.job_id = j.id)"
        " FROM jobs j WHERE j.state <> 'finished' ORDER BY j.id"
    )
    lines = [f"job {name} is {state} with {rows} rows" for name, state, rows in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"… and {len(found) - SHOWN} more jobs")
    return lines + [
        f"{actor.order['name']} is still being submitted by process {actor.pid}"
        for actor in actors
        if actor.role == "producer"
    ]


def _heartbeats(query: Query, actors: Collection[Actor]) -> list[str]:
    seen: dict[int, float] = dict(
        query(
            "SELECT pid, min(extract(epoch FROM clock_timestamp() - seen_at)::float8)"
            " FROM workers GROUP BY pid"
        )
    )
    lines = []
    for actor in actors:
        try:
            process = psutil.Process(actor.pid)
            times = process.cpu_times()
            line = f"{process.status()}, {times.user + times.system:.1f} s of processor time"
        except psutil.NoSuchProcess:
            line = "gone"
        if actor.pid in seen:
            line += f", last heartbeat {seen[actor.pid]:.1f} s ago"
        lines.append(f"{actor.role} {actor.pid}: {line}")
    return lines

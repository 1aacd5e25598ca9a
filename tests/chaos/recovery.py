"""How soon work goes on after a loss, measured while a campaign breaks things.

From a worker's death (or freeze) until its images are free, until another worker holds them, and
from the loss of the broker's data until the next shift starts. Suspects, whose rendering had
begun, are told apart: they wait by design until the other images of their job are rendered. What
happens between two looks counts as having happened at the second one.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.chaos.stage import Stage

LOOK_SECONDS = 0.2

TERMINAL = ("done", "dead", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A live shift and the images that it holds."""

    shift_id: int
    images: tuple[int, ...]


@dataclass(kw_only=True)
class _Orphan:
    """An image whose worker died at `since`, by `time.monotonic`."""

    shift_id: int
    since: float
    quiet: bool
    free: bool = False


class Recovery:
    """Watches what was lost until it is found again. `quiet` losses come at the end of a
    campaign, when nothing else is broken."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lock = threading.Lock()
        self._orphans: dict[int, _Orphan] = {}
        self._losses: list[tuple[float, bool]] = []
        self._store_deaths: list[float] = []
        self._ahead = 0.0
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def holdings(self) -> dict[int, Holding]:
        """The live shifts that hold images, by their process."""
        found = self._stage.query(
            "SELECT w.pid, s.id, array_agg(i.id) FROM shifts s JOIN workers w ON w.id = s.worker_id"
            " JOIN images i ON i.shift_id = s.id AND i.state = 'leased'"
            " WHERE s.ended_at IS NULL AND s.lease_until > clock_timestamp() GROUP BY w.pid, s.id"
        )
        return {pid: Holding(shift_id=shift, images=tuple(images)) for pid, shift, images in found}

    def died(self, holding: Holding, *, quiet: bool = False) -> None:
        """The process of this shift has just died or stopped."""
        now = time.monotonic()
        with self._lock:
            for image in holding.images:
                self._orphans[image] = _Orphan(shift_id=holding.shift_id, since=now, quiet=quiet)

    def clock_set(self, ahead: float) -> None:
        """The database's clock was set ahead so far: what waits can't be measured by it."""
        with self._lock:
            self._ahead += ahead
            self._losses.clear()
            self._store_deaths.clear()

    def broker_lost(self, *, at: float, quiet: bool = False) -> None:
        """The broker lost all its data at this `time.time()`."""
        with self._lock:
            self._losses.append((at + self._ahead, quiet))

    def store_lost(self, *, at: float) -> None:
        """The store was killed at this `time.time()`."""
        with self._lock:
            self._store_deaths.append(at + self._ahead)

    @property
    def waiting(self) -> bool:
        """Whether something that was lost quietly has not been found again yet."""
        with self._lock:
            orphans = any(orphan.quiet for orphan in self._orphans.values())
            return orphans or any(quiet for _, quiet in self._losses)

    def look_until(self, stopped: threading.Event) -> None:
        """Look again and again; while the database is away there is nothing to see."""
        while not stopped.wait(LOOK_SECONDS):
            with suppress(psycopg.Error):
                self.look()

    def look(self) -> None:
        """See what was recovered since the last look."""
        with self._lock:
            orphans, losses = dict(self._orphans), list(self._losses)
        if orphans:
            self._look_at(
                orphans,
                self._stage.query(
                    "SELECT id, shift_id, state, suspect FROM images WHERE id = ANY(%s)",
                    list(orphans),
                ),
            )
        for loss, quiet in losses:
            [(started,)] = self._stage.query(
                "SELECT extract(epoch FROM min(started_at))::float8 FROM shifts"
                " WHERE started_at > to_timestamp(%s)",
                loss,
            )
            if started is not None:
                with self._lock:
                    if (loss, quiet) not in self._losses:
                        continue
                    self._losses.remove((loss, quiet))
                self._record("a shift starts after a broker loss", started - loss, quiet)
        self._look_at_store()

    def _look_at_store(self) -> None:
        with self._lock:
            deaths = list(self._store_deaths)
        for death in deaths:
            [(stored,)] = self._stage.query(
                "SELECT extract(epoch FROM min(created_at))::float8 FROM objects"
                " WHERE created_at > to_timestamp(%s)",
                death,
            )
            if stored is not None:
                with self._lock:
                    if death not in self._store_deaths:
                        continue
                    self._store_deaths.remove(death)
                self._record("an image is done after the store's death", stored - death, False)

    def figures(self) -> dict[str, Mapping[str, Any]]:
        """Count, median, 95th percentile and maximum of the seconds, by what was measured."""
        return {name: summary(found) for name, found in sorted(self._seconds.items())}

    def _look_at(
        self, orphans: Mapping[int, _Orphan], found: Collection[tuple[int, int | None, str, bool]]
    ) -> None:
        now = time.monotonic()
        for image, shift_id, state, suspect in found:
            orphan = orphans[image]
            if shift_id == orphan.shift_id:
                continue
            if not orphan.free:
                orphan.free = True
                self._record("an image is free again", now - orphan.since, orphan.quiet)
            if shift_id is not None or state in TERMINAL:
                what = "a suspect" if suspect else "an image"
                self._record(f"{what} is leased again", now - orphan.since, orphan.quiet)
                with self._lock:
                    if self._orphans.get(image) is orphan:
                        del self._orphans[image]

    def _record(self, name: str, seconds: float, quiet: bool) -> None:
        self._seconds[f"{name}, faults over" if quiet else name].append(seconds)


def summary(seconds: Collection[float]) -> dict[str, float]:
    """Of a list that is not empty."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "count": len(ordered),
        "median": round(ordered[last // 2], 1),
        "p95": round(ordered[round(last * 0.95)], 1),
        "max": round(ordered[last], 1),
    }

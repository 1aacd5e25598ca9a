"""How much of what a campaign breaks, and the work that it is given meanwhile."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.stage import LEASE_SECONDS
from tests.helpers.servers.s3_proxy import Fault, FaultPlan

POISON = ("boom", "bad", "final", "kill", "segv", "hang")
"""What a prompt may begin with that must end dead (see `tests.helpers.fake_engine`)."""

RENDERER_ROUTE = "renderer"
"""The route of the jobs that workers with the real engine take."""

_S3_WEIGHTS = dict.fromkeys(Fault, 1.0) | {
    Fault.FORBIDDEN_403: 0.1,  # ends a shift
    Fault.HANG: 0.5,
}

_COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black", "pink")
_KINDS = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")
_SAMPLERS = ("ddim", "euler", "euler_a", "dpmpp_2m", "heun")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A campaign ends when everything was broken this often, or after so many minutes."""

    kills: int = 1000
    broker_losses: int = 100
    pg_restarts: int = 50
    store_deaths: int = 50
    """How often the S3 server itself is killed and started again."""
    stalls: int = 50
    """How often a server stands still for a while, as one whose disk hangs."""
    slow_disks: int = 50
    """How often a server is slow for a while, as one whose disk is."""
    clock_jumps: int = 50
    """How often the database's clock, or that of all other processes, is set anew."""
    s3_faults: int = 10_000
    freezes: int = 200
    histories: int = 2000
    real_engine_kills: int = 60
    """The part of the kills that hits workers with the real engine."""
    real_engine_freezes: int = 12
    recoveries: int = 20
    """Workers, and the broker's data, lost one at a time once nothing else is broken."""
    seed: int = 1
    workers: int = 6
    renderers: int = 2
    """Workers with the real engine."""
    dispatchers: int = 2
    lease_seconds: float = LEASE_SECONDS
    """Where many others want the processor, 2 s are too few: live workers lose their leases."""
    minutes: float = 120
    crash_chance: float = 0.004
    s3_fault_share: float = 0.5
    poison: float = 0.008
    """The part of the rows that must end dead."""
    backlog: int = 240
    """Images that shall wait or be rendered while things break."""
    renderer_backlog: int = 24

    @property
    def real_engine(self) -> bool:
        """Whether workers with the real engine take part."""
        return self.real_engine_kills + self.real_engine_freezes > 0

    def wanted(self) -> dict[str, int]:
        """How often each kind of fault is wanted, by the name that it is counted under."""
        wanted = {
            "kills": self.kills,
            "broker losses": self.broker_losses,
            "Postgres restarts": self.pg_restarts,
            "store deaths": self.store_deaths,
            "stalls": self.stalls,
            "slow disks": self.slow_disks,
            "clock jumps": self.clock_jumps,
            "S3 faults": self.s3_faults,
            "freezes": self.freezes,
            "kill renderer": self.real_engine_kills,
            "freeze renderer": self.real_engine_freezes,
        }
        return {name: count for name, count in wanted.items() if count}

    def s3_plan(self) -> FaultPlan:
        """Which requests to the store meet which fault."""
        total = sum(_S3_WEIGHTS.values())
        share = self.s3_fault_share / total
        rates = {fault: share * weight for fault, weight in _S3_WEIGHTS.items()}
        return FaultPlan(rates=rates, seed=self.seed + 3)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest file, and what its rows ask for."""

    name: str
    path: Path
    rows: tuple[dict[str, Any], ...]

    @property
    def images(self) -> int:
        return sum(row["samples"] for row in self.rows)


class Manifests:
    """Writes manifests of a few dozen rows: new prompts, known ones, and now and then poison."""

    def __init__(self, folder: Path, dice: random.Random, *, poison: float) -> None:
        self._folder = folder
        self._dice = dice
        self._poison = poison
        self._count = 0
        folder.mkdir(exist_ok=True)

    def write(self, rows: int = 30) -> Manifest:
        """For the engine without torch."""
        self._count += 1
        return self._save(
            f"chaos-{self._count}", tuple(self._row(number) for number in range(rows))
        )

    def write_pictures(self, rows: int) -> Manifest:
        """For the real engine: what `shapes64` can draw, in few steps."""
        self._count += 1
        return self._save(f"pictures-{self._count}", tuple(self._picture() for _ in range(rows)))

    def _save(self, name: str, rows: tuple[dict[str, Any], ...]) -> Manifest:
        path = self._folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return Manifest(name=name, path=path, rows=rows)

    def _row(self, number: int) -> dict[str, Any]:
        dice = self._dice
        # Every sixth row asks for what another job may have asked for already.
        known = dice.random() < 0.16
        prompt = f"shared {dice.randrange(200)}" if known else f"job {self._count} row {number}"
        if dice.random() < self._poison:
            # A hang takes its worker for many seconds each time, so there are few.
            word = dice.choices(POISON, [1 if word == "hang" else 8 for word in POISON])[0]
            prompt = f"{word} {self._count} {number}"
        return {
            "prompt": prompt,
            "steps": 4 if known else dice.randint(2, 8),
            "samples": dice.choice((1, 1, 1, 3)),
            "seed": 7 if known else dice.randrange(2**32),
        }

    def _picture(self) -> dict[str, Any]:
        dice = self._dice
        colour, ground = dice.sample(_COLOURS, 2)
        return {
            "prompt": f"a {colour} {dice.choice(_KINDS)} on a {ground} background",
            "steps": dice.randint(2, 5),
            "samples": 1,
            "seed": dice.randrange(2**32),
            "guidance_scale": dice.choice((3.0, 5.0, 7.5)),
            "sampler": dice.choice(_SAMPLERS),
        }

"""How much of what a campaign breaks, and the work that it is given meanwhile."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POISON = ("boom", "bad", "final", "kill", "segv", "hang")
"""What a prompt may begin with that must end dead (see `tests.fake_engine`)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A campaign ends when everything was broken this often, or after so many minutes."""

    kills: int = 1000
    broker_losses: int = 100
    pg_restarts: int = 50
    s3_faults: int = 10_000
    freezes: int = 200
    histories: int = 2000
    seed: int = 1
    workers: int = 6
    dispatchers: int = 2
    minutes: float = 60
    crash_chance: float = 0.004
    s3_fault_share: float = 0.5
    poison: float = 0.008
    """The part of the rows that must end dead."""
    backlog: int = 240
    """Images that shall wait or be rendered while things break."""


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
        self._count += 1
        name = f"chaos-{self._count}"
        chosen = tuple(self._row(number) for number in range(rows))
        path = self._folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "steps", "samples", "seed"])
            writer.writeheader()
            writer.writerows(chosen)
        return Manifest(name=name, path=path, rows=chosen)

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

"""The processes of a campaign: started through zygotes, watched, and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.crashes import Role
from tests.chaos.history import History

_REAL_ENGINE = (
    "imagemill.worker.models.loader",
    "imagemill.worker.reproducibility.certificate",
    "imagemill.worker.engine.guided.factory",
)
"""What a process that renders loads: torch, diffusers and transformers."""


@dataclass(kw_only=True)
class Actor:
    """One process. `order` is what it was started with, and is started with again."""

    pid: int
    role: Role
    order: dict[str, Any]
    ended: threading.Event = field(default_factory=threading.Event)
    status: int | None = None


class _Zygote:
    """A process that forks actors; `heard` is told of each that started or ended."""

    def __init__(
        self, *arguments: str, environment: Mapping[str, str], heard: Callable[..., None]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
        )
        self.starting: list[Actor] = []
        self._reader = threading.Thread(target=self._read, args=[heard], name="troupe", daemon=True)
        self._reader.start()

    def order(self, actor: Actor) -> None:
        self.starting.append(actor)
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(actor.order) + "\n").encode())
        self._process.stdin.flush()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()

    def _read(self, heard: Callable[..., None]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            heard(self, json.loads(line))


class Troupe:
    """Starts actors and, while `lively`, starts again those that end; producers and references
    until they are through with their manifests."""

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str],
        history: History,
        seed: int,
        chance: float,
    ) -> None:
        self.chance = chance
        """How likely a named place in the code ends its process, each time it is passed."""
        self.lively = True
        self.ends: Counter[str] = Counter()
        """How actors ended by themselves: role and status."""
        self._history = history
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._actors: dict[int, Actor] = {}
        self._environment = dict(environment)
        self._files = (str(history.path), str(folder / "actors.log"))
        self._zygotes: dict[bool, _Zygote] = {}
        """By whether they have imported the real engine; started when first needed."""

    def start(self, role: Role, **order: Any) -> Actor:
        """Ask for a process; its pid is known a moment later."""
        with self._lock:
            order |= {
                "role": role,
                "chance": self.chance,
                "seed": self._random.getrandbits(32),
            }
            actor = Actor(pid=0, role=role, order=order)
            self._zygote_of(role).order(actor)
            return actor

    def _zygote_of(self, role: Role) -> _Zygote:
        real = role in ("renderer", "reference")
        if real not in self._zygotes:
            modules = _REAL_ENGINE if real else ()
            self._zygotes[real] = _Zygote(
                *self._files, *modules, environment=self._environment, heard=self._hear
            )
        return self._zygotes[real]

    def alive(self, role: Role | None = None) -> list[Actor]:
        """The actors that have started and not ended."""
        with self._lock:
            return [a for a in self._actors.values() if role is None or a.role == role]

    def expected(self, role: Role) -> list[Actor]:
        """The actors that are alive or about to be: a busy machine takes its time to fork."""
        with self._lock:
            starting = [a for zygote in self._zygotes.values() for a in zygote.starting]
            return self.alive(role) + [a for a in starting if a.role == role]

    def kill(self, actor: Actor) -> bool:
        """SIGKILL; whether it was still there."""
        with self._lock:
            if actor.pid not in self._actors:
                return False
            with suppress(ProcessLookupError):
                os.kill(actor.pid, signal.SIGKILL)
                return True
            return False

    def end(self) -> None:
        """End every actor, and the zygotes."""
        self.lively = False
        for actor in self.alive():
            self.kill(actor)
        for zygote in self._zygotes.values():
            zygote.end()

    def _hear(self, zygote: _Zygote, news: Mapping[str, int]) -> None:
        with self._lock:
            if "started" in news:
                actor = zygote.starting.pop(0)
                actor.pid = news["started"]
                self._actors[actor.pid] = actor
            else:
                self._on_end(news["ended"], news["status"])

    def _on_end(self, pid: int, status: int) -> None:
        actor = self._actors.pop(pid)
        actor.status = status
        self.ends[f"{actor.role} {status}"] += 1
        finished = actor.role == "reference" or (actor.role == "producer" and status == 0)
        if self.lively and not finished:
            again = {k: v for k, v in actor.order.items() if k not in ("role", "chance", "seed")}
            self.start(actor.role, **again)
        actor.ended.set()

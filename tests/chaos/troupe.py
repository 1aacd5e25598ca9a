"""The processes of a campaign: started through a zygote, watched, and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.crashes import Role
from tests.chaos.history import History


@dataclass(kw_only=True)
class Actor:
    """One process. `order` is what it was started with, and is started with again."""

    pid: int
    role: Role
    order: dict[str, Any]
    ended: threading.Event = field(default_factory=threading.Event)
    status: int | None = None


class Troupe:
    """Starts actors and, while `lively`, starts again those that end; producers until they are
    through with their manifest."""

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
        self._starting: list[Actor] = []
        self.log = folder / "actors.log"
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote", str(history.path), str(self.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
        )
        self._reader = threading.Thread(target=self._read, name="troupe", daemon=True)
        self._reader.start()

    def start(self, role: Role, **order: Any) -> Actor:
        """Ask for a process; its pid is known a moment later."""
        with self._lock:
            order |= {
                "role": role,
                "chance": self.chance,
                "seed": self._random.getrandbits(32),
            }
            actor = Actor(pid=0, role=role, order=order)
            self._starting.append(actor)
            assert self._zygote.stdin is not None
            self._zygote.stdin.write((json.dumps(order) + "\n").encode())
            self._zygote.stdin.flush()
            return actor

    def alive(self, role: Role | None = None) -> list[Actor]:
        """The actors that have started and not ended."""
        with self._lock:
            return [a for a in self._actors.values() if role is None or a.role == role]

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
        """End every actor, and the zygote."""
        self.lively = False
        for actor in self.alive():
            self.kill(actor)
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        self._zygote.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            news = json.loads(line)
            with self._lock:
                if "started" in news:
                    actor = self._starting.pop(0)
                    actor.pid = news["started"]
                    self._actors[actor.pid] = actor
                else:
                    self._on_end(news["ended"], news["status"])

    def _on_end(self, pid: int, status: int) -> None:
        actor = self._actors.pop(pid)
        actor.status = status
        self.ends[f"{actor.role} {status}"] += 1
        finished = actor.role == "producer" and status == 0
        if self.lively and not finished:
            again = {k: v for k, v in actor.order.items() if k not in ("role", "chance", "seed")}
            self.start(actor.role, **again)
        actor.ended.set()

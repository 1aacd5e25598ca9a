"""An engine and a shelf without torch: the real ones' interface, pixels from the request key.

It works as the real one: B slots, one image each, its own number of steps, refilled as they come
free. Faults are planned by prompt, so that a manifest says what goes wrong:

    `boom …`     the forward pass raises while this image is in it
    `kill …`     the process ends (`os._exit`) in the forward pass
    `segv …`     the process dies of a segmentation fault there
    `hang …`     the forward pass never comes back
    `oom …`      the device is out of memory with more than one slot
    `huge …`     it is so with any number of slots
    `bad …`      this image fails by itself, its neighbours do not
    `final …`    the same, with an error that no retry can help
    `nan …`      a picture of outcome `nan`
    `leak …`     every step leaves `LEAK_BYTES` behind that nobody frees
    `slow …`     every step takes `SLOW_SECONDS`
    `held F …`   no step ends before there is a file F
"""

import hashlib
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imagemill.db.errors import InputImageError, ModelError, OutOfMemory, RenderError
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.specs import ImageSpec, canonical_json
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered

SLOW_SECONDS = 0.2
LEAK_BYTES = 16 << 20

_leaked: list[bytes] = []


@dataclass(frozen=True, kw_only=True)
class FakeEnvironment:
    """As `worker.models.environment.Environment`, which can't be imported without torch."""

    fields: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        return dict(self.fields)

    @cached_property
    def _fingerprint(self) -> str:
        return hashlib.sha256(canonical_json(self.document()).encode()).hexdigest()

    def fingerprint(self) -> str:
        return self._fingerprint

    def changed(self, **fields: Any) -> "FakeEnvironment":
        return replace(self, fields={**self.fields, **fields})


def pixels_of(spec: ImageSpec) -> np.ndarray:
    """The picture of a request: noise, the same in every process. Height x width x 3."""
    bits = np.random.Philox(key=int(spec.pixel_key()[:32], 16))
    shape = (spec.height, spec.width, 3)
    return np.random.Generator(bits).integers(0, 256, shape, dtype=np.uint8)


@dataclass(kw_only=True)
class _Slot:
    ticket: int
    spec: ImageSpec
    left: int


class FakeEngine:
    """See the module's docstring. Only images of the `group` it was opened for are taken."""

    def __init__(
        self, group: Mapping[str, Any], *, slots: int = 4, step_seconds: float = 0.0
    ) -> None:
        self._group = dict(group)
        self._slots: list[_Slot | None] = [None] * slots
        self._failed: list[Failed] = []
        self._step_seconds = step_seconds
        self.steps = 0
        self.passes: list[list[str]] = []
        """The prompts of each forward pass."""
        self.environment = FakeEnvironment(
            fields={"device": "fake", "shapes": {"slots": slots}, "group": dict(group)}
        )

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def busy(self) -> bool:
        return bool(self._failed or self._active)

    @property
    def tickets(self) -> tuple[int | None, ...]:
        return tuple(None if slot is None else slot.ticket for slot in self._slots)

    @property
    def refined(self) -> bool:
        return False

    def room(self) -> int:
        return self._slots.count(None)

    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        if len(images) > self.room():
            raise ValueError(f"{len(images)} images for {self.room()} free slots")
        for ticket, spec in images:
            if spec.group() != self._group:
                error = ModelError("not of this group")
                self._failed.append(Failed(ticket=ticket, error=error))
                continue
            place = self._slots.index(None)
            self._slots[place] = _Slot(ticket=ticket, spec=spec, left=spec.steps)

    def step(self) -> list[Rendered | Failed]:
        ended: list[Rendered | Failed] = list(self._failed)
        self._failed.clear()
        active = self._active
        if not active:
            return ended
        self.passes.append([slot.spec.prompt for slot in active])
        for slot in active:
            self._go_wrong(*slot.spec.prompt.split(" "))
        time.sleep(self._step_seconds)
        self.steps += 1
        for slot in active:
            slot.left -= 1
            if error := _own_error(slot.spec):
                ended.append(Failed(ticket=slot.ticket, error=error))
                self.cancel([slot.ticket])
            elif slot.left <= 0:
                ended.append(_rendered(slot))
                self.cancel([slot.ticket])
        return ended

    def cancel(self, tickets: Collection[int]) -> list[int]:
        dropped = [slot.ticket for slot in self._active if slot.ticket in tickets]
        dropped += [failure.ticket for failure in self._failed if failure.ticket in tickets]
        self._slots = [None if slot and slot.ticket in tickets else slot for slot in self._slots]
        self._failed = [failure for failure in self._failed if failure.ticket not in tickets]
        return dropped

    def abandon(self) -> list[int]:
        tickets = [slot.ticket for slot in self._active]
        return self.cancel([*tickets, *(failure.ticket for failure in self._failed)])

    @property
    def _active(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot is not None]

    def _go_wrong(self, word: str, *rest: str) -> None:
        match word:
            case "boom":
                raise RuntimeError("boom: a kernel failed")
            case "kill":
                os._exit(9)
            case "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                while True:
                    time.sleep(0.05)
            case "huge":
                raise OutOfMemory(f"out of memory with {self.slots} slots")
            case "oom" if self.slots > 1:
                raise OutOfMemory(f"out of memory with {self.slots} slots")
            case "leak":
                _leaked.append(b"x" * LEAK_BYTES)
            case "slow":
                time.sleep(SLOW_SECONDS)
            case "held":
                while not Path(rest[0]).exists():
                    time.sleep(0.01)


class FakeShelf:
    """Opens fake engines. `broken` are words in a model's name that can't be loaded.

    With a `card`, the groups that do not fit are kept in `refused`; without, the device's memory
    has no size.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        step_seconds: float = 0.0,
        broken: Collection[str] = (),
        card: bool = False,
    ) -> None:
        self._card = card
        self.refused: list[str] = []
        self._slots = slots
        self._step_seconds = step_seconds
        self._broken = broken
        self._engines: dict[int, FakeEngine] = {}
        self.opened: list[FakeEngine] = []

    @property
    def loaded(self) -> tuple[str, ...]:
        return ()

    def engine(self, choice: GroupChoice) -> FakeEngine:
        if any(word in choice.model_name for word in self._broken):
            raise ModelError(f"{choice.model_name}: its weights are not here")
        if choice.id not in self._engines:
            engine = FakeEngine(choice.document, slots=self._slots, step_seconds=self._step_seconds)
            self._engines[choice.id] = engine
            self.opened.append(engine)
        return self._engines[choice.id]

    def shrink(self, choice: GroupChoice) -> bool:
        slots = self._engines.pop(choice.id).slots
        self._slots = max(1, slots // 2)
        return slots > 1

    def refuse(self, choice: GroupChoice) -> bool:
        self.refused.append(choice.key)
        return self._card


def _own_error(spec: ImageSpec) -> RenderError | None:
    match spec.prompt.split(" ")[0]:
        case "bad":
            return RenderError("bad: this picture can't be drawn")
        case "final":
            return InputImageError("final: its input is no picture")
    return None


def _rendered(slot: _Slot) -> Rendered:
    pixels = pixels_of(slot.spec)
    outcome = Outcome.OK
    if slot.spec.prompt.startswith("nan"):
        outcome, pixels = Outcome.NAN, np.zeros_like(pixels)
    return Rendered(ticket=slot.ticket, pixels=pixels, outcome=outcome, cut=None, seconds=0.01)

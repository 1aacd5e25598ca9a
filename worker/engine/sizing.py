"""How many slots an engine gets, and the fixed shapes that follow."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from db.errors import OutOfMemory
from db.settings import Settings
from worker.environment import Shapes

CPU_SLOTS = 8
LARGEST = 64


def choose_shapes(
    *, device: torch.device, group: Mapping[str, Any], settings: Settings, slots: int | None
) -> Shapes:
    """The shapes for a group: B as asked for, as set, or the device's default.

    The text encoder and the decoder work one by one on a CPU, where a batch gains nothing; one
    by one is also the shape that a single row has in diffusers' own pipeline.
    """
    chosen = slots or settings.slots or CPU_SLOTS
    return Shapes(
        slots=even(chosen),
        prompts=1 if device.type == "cpu" else 4,
        pictures=1,
        width=group["width"],
        height=group["height"],
        windows=group.get("windows", 1),
    )


def even(slots: int) -> int:
    """The number rounded down to an even one; 1 stays.

    With an odd B, rows in different slots got different bits on CPUs with several threads.
    """
    return slots if slots == 1 else slots - slots % 2


def find_slots(attempt: Callable[[int], None], *, largest: int = LARGEST) -> int:
    """The largest power of two, at most `largest`, at which `attempt(slots)` fits into memory.

    `attempt` does the work of one step and one decoding at that size, and raises `OutOfMemory`.
    If not even 1 fits, that is raised.
    """
    fits = 0
    slots = 1
    while slots <= largest:
        try:
            attempt(slots)
        except OutOfMemory:
            if fits == 0:
                raise
            return fits
        fits, slots = slots, slots * 2
    return fits

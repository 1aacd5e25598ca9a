"""How many slots an engine gets, and the fixed shapes that follow."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from imagemill.db.errors import OutOfMemory
from imagemill.db.settings import Settings
from imagemill.worker.models.environment import Shapes

CPU_SLOTS = 8
LARGEST = 64
_WORTH = 0.9


def choose_shapes(
    *, device: torch.device, group: Mapping[str, Any], settings: Settings, slots: int | None
) -> Shapes:
    """The shapes for a group: B as asked for, as set, or the device's default.

    The text encoder and the decoder work one by one on a CPU, where a batch gains nothing; one
    by one is also the shape that a single row has in diffusers' own pipeline. In recorded batches
    they do so everywhere: what an image shares with others is the denoiser's calls alone.
    """
    chosen = slots or settings.slots or CPU_SLOTS
    return Shapes(
        slots=even(chosen),
        prompts=1 if device.type == "cpu" or settings.batches == "recorded" else 4,
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


def find_slots(attempt: Callable[[int], float], *, largest: int = LARGEST) -> int:
    """The power of two, at most `largest`, that fits into memory and is worth its size.

    `attempt(slots)` does the work of a step and a decoding at that size; it returns the seconds
    of the step, or raises `OutOfMemory`. Doubling ends where an image's share of a step gets less
    than a tenth shorter: more slots would only make every image wait longer. If not even 1 fits,
    that is raised.
    """
    best = 0
    shortest = math.inf
    slots = 1
    while slots <= largest:
        try:
            share = attempt(slots) / slots
        except OutOfMemory:
            if best == 0:
                raise
            break
        if share > shortest * _WORTH:
            break
        best, shortest, slots = slots, share, slots * 2
    return best

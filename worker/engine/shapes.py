"""The number of an engine's slots, and the fixed shapes that follow from it."""

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
    """The shapes for a group. B is `slots`, else the setting `slots`, else the default.

    On a CPU the text encoder takes one text and the decoder one image at a time: a batch gains
    nothing there, and this is the shape that diffusers' own pipeline uses for one image. With
    recorded batches both do so on every device, because a composition describes only which images
    share the denoiser's calls.
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
    """The largest even number up to `slots`; 1 stays 1.

    On CPUs with several threads, an odd B gave the same image different bits in different slots.
    """
    return slots if slots == 1 else slots - slots % 2


def by_trying(device: torch.device, settings: Settings, slots: int | None) -> bool:
    """Whether B is found by trying: on a GPU, if nobody has set it."""
    return slots is None and settings.slots is None and device.type == "cuda"


def find_slots(attempt: Callable[[int], float], *, largest: int = LARGEST) -> int:
    """The best number of slots for a device: a power of two, at most `largest`.

    `attempt(slots)` does a step and a decoding with that many slots. It returns the seconds of
    the step, or raises `OutOfMemory`. The number is doubled as long as it fits into memory and
    the time per image falls by at least a tenth. Beyond that, more slots would only make every
    image take longer. If not even 1 fits, `OutOfMemory` is raised.
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

"""One try of an engine with some number of slots: does it fit, and how long does a step take?"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from imagemill.db.samplers.names import OWN
from imagemill.db.specs import Adapter, ImageSpec
from imagemill.worker.engine import Engine, Failed
from imagemill.worker.models.model import Model

_PROBE_STEPS = 3


def probe(
    engine: Engine,
    group: Mapping[str, Any],
    model: Model,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Fill every slot, take three steps and decode. Returns the seconds of the second one.

    `clock` counts them. Raises `OutOfMemory`, or the error of an image that could not be rendered.
    """
    row = ImageSpec(
        model=model.name,
        weights_digest=group["weights_digest"],
        prompt="a probe",
        seed=0,
        width=group["width"],
        height=group["height"],
        steps=_PROBE_STEPS,
        guidance_scale=2.0 if group["guided"] else 1.0,
        sampler=OWN.name if model.kind == "generic" else "ddim",
        windows=group.get("windows", 1),
        adapters=tuple(Adapter(**adapter) for adapter in group["adapters"]),
        # The refiner gets only the last of the three steps, so the timed one is the base's.
        refiner_start=0.6 if engine.refined else None,
    )
    seconds = []
    try:
        engine.admit([(ticket, row) for ticket in range(engine.slots)])
        while engine.busy:
            started = clock()
            for result in engine.step():
                if isinstance(result, Failed):
                    raise result.error
            _wait(model.device)
            seconds.append(clock() - started)
    finally:
        engine.abandon()
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
    # The first step includes the choice of kernels, the last one includes decoding.
    return seconds[1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

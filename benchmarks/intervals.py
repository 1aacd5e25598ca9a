"""How many passes the guided engine makes for images with a guidance interval.

    python -m benchmarks.intervals [--images 256] [--slots 8]

The denoiser and the decoder cost nothing here (`benchmarks.overhead`): what counts is who shares a
pass. Every pass has 2B rows; an image takes two of them inside its interval, and one outside.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.overhead import specs, without_cost
from imagemill.db.models.registry import BUILT_IN, load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model

INTERVALS = ((0.0, 1.0), (0.1, 0.6), (0.0, 0.5), (0.2, 0.8))
SAMPLERS = ("ddim", "euler", "dpmpp_2m", "unipc")
STEPS = (8, 40)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--slots", type=int, default=8)
    given = parser.parse_args(words)
    settings = Settings.load(device="cpu", threads=1)
    prepare_process(settings)
    model = load_model(load_registry(settings).find(BUILT_IN), settings=settings)
    print(f"{'manifest':<10}{'interval':>12}{'passes':>8}{'the least':>11}")
    for name, rows in manifests(model, given.images).items():
        for start, end in INTERVALS:
            own = [replace(row, guidance_start=start, guidance_end=end) for row in rows]
            made, least = passes(model, settings, own, given.slots)
            print(f"{name:<10}{f'{start} to {end}':>12}{made:>8}{least:>11}")
    return 0


def manifests(model: Model, images: int) -> dict[str, list[ImageSpec]]:
    """Guided rows: of 8 to 40 steps with four samplers, and all of 20 steps with one."""
    drawn = random.Random(1)
    mixed = [
        replace(row, steps=drawn.randint(*STEPS), guidance_scale=2.0 + drawn.randint(0, 7))
        for row in specs(model, images, SAMPLERS)
    ]
    return {"mixed": mixed, "uniform": specs(model, images, SAMPLERS[:1])}


def passes(
    model: Model, settings: Settings, rows: Sequence[ImageSpec], slots: int
) -> tuple[int, int]:
    """The passes made for these rows, and how many there would be without an empty row."""
    engine = open_engine(without_cost(model), rows[0].group(), settings, slots)
    waiting = list(enumerate(rows))
    while waiting or engine.busy:
        room = engine.room()
        if waiting and room:
            engine.admit(waiting[:room])
            del waiting[:room]
        engine.step()
    taken = sum(
        row.steps + sum(row.guided_at(step, row.steps) for step in range(row.steps)) for row in rows
    )
    return engine.steps, -(-taken // (2 * engine.slots))


if __name__ == "__main__":
    sys.exit(main())

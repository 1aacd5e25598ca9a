"""How fast the engine renders, beside what a user's script would do with diffusers.

    python -m benchmarks.engine --model shapes64 --images 64 --slots 2,4,8,16

Four ways on the same prompts, one after another in one process, so that the ratios hold on a
noisy machine: diffusers' pipeline row by row, with lists of B prompts, the engine on a uniform
manifest, and the engine on a mixed one (7 step counts x 5 guidance scales), which a script can
only group by equal parameters. Runs on a GPU as it is: `IMAGEMILL_DEVICE=cuda`.
"""

import argparse
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Engine
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tools.parity.oracle import Oracle

STEPS = (8, 12, 16, 20, 24, 30, 40)
GUIDANCE = (2.0, 3.0, 5.0, 7.5, 9.0)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One way of rendering: milliseconds an image and a denoiser step of an image."""

    way: str
    slots: int
    images: int
    seconds: float
    image_steps: int

    @property
    def per_image(self) -> float:
        return 1000 * self.seconds / self.images

    @property
    def per_step(self) -> float:
        return 1000 * self.seconds / self.image_steps


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes64", help="a model of the registry")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--slots", default="2,4,8,16", help="values of B, comma-separated")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    given = parser.parse_args(words)
    settings = Settings.load()
    prepare_process(settings)
    model = load_model(load_registry(settings).find(given.model), settings=settings)
    timings = list(measure(model, settings, given.images, [int(b) for b in given.slots.split(",")]))
    document = {
        "device": str(model.device),
        "name": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "dtype": model.precision,
        "torch": torch.__version__,
        "timings": [
            {**asdict(t), "ms_per_image": t.per_image, "ms_per_image_step": t.per_step}
            for t in timings
        ],
    }
    report(timings)
    if given.out is not None:
        given.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))
    return 0


def measure(model: Model, settings: Settings, count: int, slots: Sequence[int]) -> Iterator[Timing]:
    """The four ways, for each B."""
    uniform = specs(model, settings, count)
    mixed = [
        replace(spec, steps=steps, guidance_scale=guidance)
        for spec, (steps, guidance) in zip(
            uniform, itertools.cycle(itertools.product(STEPS, GUIDANCE)), strict=False
        )
    ]
    oracle = Oracle(model)
    few = uniform[: max(4, count // 8)]
    for spec in few[:1]:
        oracle.alone(spec)  # warm up
    yield timed("diffusers, row by row", 1, few, lambda: [oracle.alone(spec) for spec in few])
    for b in slots:
        yield timed("diffusers, lists", b, uniform, lambda b=b: by_lists(oracle, uniform, b))
        yield timed("engine", b, uniform, lambda b=b: by_engine(model, settings, uniform, b))
        yield timed("diffusers, grouped, mixed", b, mixed, lambda b=b: by_groups(oracle, mixed, b))
        yield timed("engine, mixed", b, mixed, lambda b=b: by_engine(model, settings, mixed, b))


def specs(model: Model, settings: Settings, count: int) -> list[ImageSpec]:
    entry = load_registry(settings).find(model.name)
    defaults = entry.defaults
    width, height = model.facts.default_size
    return [
        ImageSpec(
            model=model.name,
            weights_digest=weights_digest(entry),
            prompt=f"a picture of a red circle on a blue background, number {number}",
            seed=number,
            width=defaults.get("width", width),
            height=defaults.get("height", height),
            steps=defaults.get("steps", 25),
            guidance_scale=defaults.get("guidance_scale", 7.5),
            sampler=defaults.get("sampler", "ddim"),
        )
        for number in range(count)
    ]


def by_engine(model: Model, settings: Settings, images: Sequence[ImageSpec], slots: int) -> None:
    run_through(open_engine(model, images[0].group(), settings, slots), images)


def run_through(engine: Engine, images: Sequence[ImageSpec]) -> None:
    """Render images, admitting one as soon as there is room for it."""
    waiting = list(enumerate(images))
    while waiting or engine.busy:
        room = engine.room()
        if waiting and room:
            engine.admit(waiting[:room])
            waiting = waiting[room:]
        engine.step()


def by_lists(oracle: Oracle, images: Sequence[ImageSpec], size: int) -> None:
    for batch in batches(images, size):
        oracle.together(batch)


def by_groups(oracle: Oracle, images: Sequence[ImageSpec], size: int) -> None:
    groups: dict[tuple[int, float], list[ImageSpec]] = defaultdict(list)
    for spec in images:
        groups[spec.steps, spec.guidance_scale].append(spec)
    for group in groups.values():
        by_lists(oracle, group, size)


def batches(images: Sequence[ImageSpec], size: int) -> Iterator[Sequence[ImageSpec]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def timed(way: str, slots: int, images: Sequence[ImageSpec], work: Callable[[], object]) -> Timing:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timing(
        way=way,
        slots=slots,
        images=len(images),
        seconds=time.perf_counter() - started,
        image_steps=sum(spec.steps for spec in images),
    )


def report(timings: Sequence[Timing]) -> None:
    first = timings[0]
    print(f"{'way':<28}{'B':>4}{'ms an image':>14}{'ms a step':>12}{'x row by row':>14}")
    for t in timings:
        ratio = first.per_step / t.per_step
        print(f"{t.way:<28}{t.slots:>4}{t.per_image:>14.1f}{t.per_step:>12.2f}{ratio:>14.1f}")


if __name__ == "__main__":
    sys.exit(main())

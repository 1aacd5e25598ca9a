"""Which settings of speed pay on this device, each beside the defaults.

    python -m benchmarks.kernels --slots 16 --rounds 7 --out out/bench/kernels.json
    python -m benchmarks.kernels --ways compile,compile_regions,compile_vae

Every way is a model of its own in one process, loaded with other settings: bf16, channels last, the
kernels of attention, fused projections, and torch.compile of the denoiser, of its repeated blocks,
and of the decoder, which takes minutes on a CPU and is left out unless `--ways` names it. `fixed`
algorithms repeat bits, `free` ones are those of `reproducible = false`. In each round every way
renders the same images, in turns, so that ratios hold on a busy machine; they are counted in
processor time on a CPU. The table has the median of images a second, the median, the least and the
most of the rounds' ratios to the defaults, the seconds until the first images (loading and
compiling included), and how far pixels differ from those of the defaults, of 255.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from benchmarks import machine
from benchmarks.engine import specs
from imagemill.db.errors import SettingsError
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Engine, Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.files.records import Pixels
from imagemill.worker.models.device import choose_algorithms, prepare_process, resolve_device
from imagemill.worker.models.loader import load_model

Algorithms = Literal["fixed", "free"]

WAYS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "bf16": {"dtype": "bf16"},
    "channels_last": {"channels_last": True},
    "contiguous": {"channels_last": False},
    "math": {"attention": "math"},
    "flash": {"attention": "flash"},
    "efficient": {"attention": "efficient"},
    "cudnn": {"attention": "cudnn"},
    "fuse_projections": {"fuse_projections": True},
    "workspace": {"cublas_workspace": ":4096:8"},
    "compile": {"compile": True},
    "compile_regions": {"compile_regions": True},
    "compile_vae": {"compile_vae": True},
}
"""Each way's settings, where they differ from the defaults of the device."""

SHORT = ("default", "bf16", "channels_last", "math", "flash", "fuse_projections")
"""The ways of a short run: what a CPU has, without compiling."""


@dataclass(kw_only=True)
class Contestant:
    """One way on its own model. `ratios` are to the defaults with fixed algorithms, by round."""

    way: str
    algorithms: Algorithms
    settings: Settings
    engine: Engine
    pictures: list[Pixels]
    first_seconds: float
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A row of the table; the differences are of 255."""

    way: str
    algorithms: Algorithms
    images_a_second: float
    times_default: float
    least: float
    most: float
    first_seconds: float
    largest_difference: int
    mean_difference: float


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes64", help="a model of the registry")
    parser.add_argument("--slots", type=int, default=16, help="B")
    parser.add_argument("--images", type=int, help="images a round; B of them if not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default=",".join(SHORT), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--algorithms", default="fixed,free", help="fixed, free, or both")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    given = parser.parse_args(words)
    ways = ["default", *(way for way in given.ways.split(",") if way != "default")]
    if unknown := [way for way in ways if way not in WAYS]:
        parser.error(f"no such way: {', '.join(unknown)}; there are {', '.join(WAYS)}")
    settings = Settings.load(slots=given.slots)
    prepare_process(settings)
    about = machine.describe()
    contestants, left_out = _contestants(given, settings, ways)
    images = _images(given, settings)
    for _ in range(given.rounds):
        _run_round(contestants, images)
    figures = [_figure(each, contestants[0], len(images)) for each in contestants]
    _report(figures, left_out, machine.line(about))
    if given.out is not None:
        document = {
            "machine": about,
            "device": str(resolve_device(settings)),
            "model": given.model,
            "slots": given.slots,
            "images": len(images),
            "rounds": given.rounds,
            "figures": [asdict(figure) for figure in figures],
            "left_out": left_out,
        }
        given.out.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _images(given: argparse.Namespace, settings: Settings) -> list[ImageSpec]:
    model = load_model(load_registry(settings).find(given.model), settings=settings)
    return specs(model, settings, given.images or given.slots)


def _contestants(
    given: argparse.Namespace, settings: Settings, ways: Sequence[str]
) -> tuple[list[Contestant], dict[str, str]]:
    """Every way that this device has, the defaults first; and why others are left out."""
    entry = load_registry(settings).find(given.model)
    images = _images(given, settings)
    found: list[Contestant] = []
    left_out: dict[str, str] = {}
    for algorithms in given.algorithms.split(","):
        for way in ways:
            free = algorithms == "free"
            chosen = settings.model_copy(update={**WAYS[way], "reproducible": not free})
            choose_algorithms(chosen)
            started = time.perf_counter()
            try:
                engine = open_engine(
                    load_model(entry, settings=chosen), images[0].group(), chosen, given.slots
                )
            except SettingsError as error:
                left_out[way] = error.message
                continue
            pictures = _render(engine, images)
            found.append(
                Contestant(
                    way=way,
                    algorithms="free" if free else "fixed",
                    settings=chosen,
                    engine=engine,
                    pictures=pictures,
                    first_seconds=time.perf_counter() - started,
                )
            )
    return found, left_out


def _run_round(contestants: Sequence[Contestant], images: Sequence[ImageSpec]) -> None:
    for each in contestants:
        choose_algorithms(each.settings)
        started = _now()
        _render(each.engine, images)
        each.seconds.append(_now() - started)
    for each in contestants:
        each.ratios.append(contestants[0].seconds[-1] / each.seconds[-1])


def _now() -> float:
    """Processor time on a CPU, which other processes do not lengthen; else the clock."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _render(engine: Engine, images: Sequence[ImageSpec]) -> list[Pixels]:
    waiting = list(enumerate(images))
    found: dict[int, Pixels] = {}
    while waiting or engine.busy:
        if waiting and (room := engine.room()):
            engine.admit(waiting[:room])
            del waiting[:room]
        for result in engine.step():
            if isinstance(result, Failed):
                raise result.error
            found[result.ticket] = result.pixels
    return [found[ticket] for ticket in range(len(images))]


def _figure(each: Contestant, default: Contestant, images: int) -> Figure:
    pairs = zip(each.pictures, default.pictures, strict=True)
    differences = np.stack([np.abs(mine.astype(int) - theirs) for mine, theirs in pairs])
    return Figure(
        way=each.way,
        algorithms=each.algorithms,
        images_a_second=images / median(each.seconds),
        times_default=median(each.ratios),
        least=min(each.ratios),
        most=max(each.ratios),
        first_seconds=each.first_seconds,
        largest_difference=int(differences.max()),
        mean_difference=float(differences.mean()),
    )


def _report(figures: Sequence[Figure], left_out: Mapping[str, str], about: str) -> None:
    print(about)
    print("| way | algorithms | images/s | times default | least to most | first s | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for each in figures:
        print(
            f"| `{each.way}` | {each.algorithms} | {each.images_a_second:.2f} "
            f"| {each.times_default:.2f} | {each.least:.2f} to {each.most:.2f} "
            f"| {each.first_seconds:.1f} "
            f"| at most {each.largest_difference}, mean {each.mean_difference:.3f} |"
        )
    for way, why in left_out.items():
        print(f"{way}: left out: {why}")


if __name__ == "__main__":
    sys.exit(main())

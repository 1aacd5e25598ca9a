"""One part, measured in this process: `python -m benchmarks.gpu.measured NAME …`.

`benchmarks.gpu` starts it. It writes one JSON file when it ends, and none if it fails. What does
not fit into its seconds or into memory is named in `left_out`.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine
from benchmarks.engine import run_through, specs
from benchmarks.gpu.models import RECIPES
from benchmarks.gpu.parts import ALGORITHMS, CEILING, Part, part_named
from imagemill.db.errors import ImagemillError, OutOfMemory
from imagemill.db.models.registry import load_registry
from imagemill.db.samplers.names import OWN
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.device import DTYPES, prepare_process, resolve_device
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.certificate import certify

ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all measurements of a part share. `deadline` is a time of `time.monotonic`."""

    part: Part
    settings: Settings
    model: Model
    images: Sequence[ImageSpec]
    deadline: float


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part")
    parser.add_argument("--folder", type=Path, required=True, help="the model's pipeline")
    parser.add_argument("--registry", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--slots", help="values of B, comma-separated")
    parser.add_argument("--seconds", type=float, required=True, help="begin nothing after them")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    deadline = time.monotonic() + given.seconds
    part = part_named(given.part)
    chosen = dict(ALGORITHMS[part.algorithms])
    if part.compiled:
        # Of a transformer the repeated blocks, which are ready much sooner than the whole.
        generic = RECIPES[part.model].generic
        chosen |= {"compile_regions" if generic else "compile": True, "compile_vae": True}
    settings = Settings.load(models=given.registry, device=given.device, threads=1, **chosen)
    prepare_process(settings)
    device = resolve_device(settings)
    document: dict[str, Any] = {
        "part": part.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": machine.describe(),
    }
    if part.model == CEILING:
        document["ceiling"] = matrix_products(device)
    else:
        slots = [int(b) for b in given.slots.split(",")] if given.slots else ()
        document |= _measure(part, settings, given.folder, slots, deadline)
    given.out.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def matrix_products(device: torch.device) -> dict[str, dict[str, float]]:
    """TFLOP a second of square products, by precision and side. The most is the ceiling."""
    sides = (4096, 8192, 16384) if device.type == "cuda" else (256,)
    found: dict[str, dict[str, float]] = {}
    for name, dtype in DTYPES.items():
        if device.type == "cpu" and name == "fp16":
            continue
        for side in sides:
            one = torch.randn(side, side, device=device, dtype=dtype)
            other = torch.randn(side, side, device=device, dtype=dtype)
            seconds = timed(lambda one=one, other=other: one @ other, device, calls=10)
            found.setdefault(name, {})[str(side)] = 2 * side**3 / seconds / 1e12
    return found


def _measure(
    part: Part, settings: Settings, folder: Path, slots: Sequence[int], deadline: float
) -> dict[str, Any]:
    recipe = RECIPES[part.model]
    started = time.perf_counter()
    model = load_model(load_registry(settings).find(part.model), settings=settings)
    values = slots or recipe.slots
    images = specs(model, settings, 2 * max(values))
    if recipe.generic:
        images = [replace(image, sampler=OWN.name) for image in images]
    bench = Bench(part=part, settings=settings, model=model, images=images, deadline=deadline)
    pipeline = user_pipeline(model, folder)
    flops, replay = captured_pass(pipeline, bench, 1)
    document: dict[str, Any] = {
        "load_seconds": time.perf_counter() - started,
        "precision": model.precision,
        "steps": images[0].steps,
        "tflop_an_image": flops * images[0].steps / 1e12,
        "rows": [],
        "left_out": [],
    }
    if not part.compiled:
        with left_out_if_full(document, "p0"):
            document["rows"].append(_row(bench, "p0", 1, lambda: by_pipeline(pipeline, bench, 1)))
    del replay
    for b in values:
        for way, measure in _ways(pipeline, bench, b):
            if time.monotonic() > deadline:
                document["left_out"].append(f"{way}, B = {b}: no time left")
                continue
            with left_out_if_full(document, f"{way}, B = {b}"):
                document["rows"] += measure()
    with left_out_if_full(document, "certificate"):
        document["certificate"] = _certificate(bench, min(values))
    return document


def _ways(
    pipeline: Any, bench: Bench, b: int
) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """The engine and lists of B by turns, then the denoiser alone."""
    yield "engine and p1", lambda: _by_turns(pipeline, bench, b)
    yield "bare loop", lambda: [_bare(pipeline, bench, b)]


def _by_turns(pipeline: Any, bench: Bench, b: int) -> list[dict[str, Any]]:
    images = bench.images[: 2 * b]
    engine = open_engine(bench.model, images[0].group(), bench.settings, b)
    started = time.perf_counter()
    run_through(engine, [replace(image, steps=2) for image in images[:b]])
    first = time.perf_counter() - started
    by_pipeline(pipeline, bench, b, steps=2)
    seconds: dict[str, list[float]] = {"engine": [], "p1": []}
    busy = 0.0
    for _ in range(ROUNDS):
        with sampled(bench.model.device) as samples:
            seconds["engine"].append(clocked(lambda: run_through(engine, images), bench))
        busy = max(busy, median(samples) if samples else 0.0)
        seconds["p1"].append(clocked(lambda: by_pipeline(pipeline, bench, b), bench) * 2)
        if time.monotonic() > bench.deadline:
            break
    rows = [_figure(way, b, 2 * b, each) for way, each in seconds.items()]
    rows[0] |= {"first_seconds": first, "gpu_busy_percent": busy or None}
    return rows


def _bare(pipeline: Any, bench: Bench, b: int) -> dict[str, Any]:
    """Images a second of the denoiser alone, called again with the arguments of a real call."""
    _, replay = captured_pass(pipeline, bench, b)
    replay()
    seconds = timed(replay, bench.model.device, calls=5) * bench.images[0].steps
    return _figure("bare loop", b, b, [seconds])


def _row(bench: Bench, way: str, b: int, work: Callable[[], object]) -> dict[str, Any]:
    work()
    return _figure(way, b, b, [clocked(work, bench) for _ in range(ROUNDS)])


def _figure(way: str, b: int, images: int, seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "way": way,
        "slots": b,
        "images_a_second": images / median(seconds),
        "least": images / max(seconds),
        "most": images / min(seconds),
    }


def user_pipeline(model: Model, folder: Path) -> Any:
    """diffusers' own pipeline around the loaded, and perhaps compiled, modules."""
    modules = {
        name: part for name, part in model.components.items() if isinstance(part, torch.nn.Module)
    }
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **modules)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_pipeline(pipeline: Any, bench: Bench, b: int, *, steps: int | None = None) -> Any:
    """A list of B prompts, as a script renders them."""
    images = bench.images[:b]
    first = images[0]
    return pipeline(
        prompt=[image.prompt for image in images],
        num_inference_steps=steps or first.steps,
        guidance_scale=first.guidance_scale,
        width=first.width,
        height=first.height,
        generator=[torch.Generator("cpu").manual_seed(image.seed) for image in images],
    )


def captured_pass(pipeline: Any, bench: Bench, b: int) -> tuple[float, Callable[[], object]]:
    """The FLOP of an image's denoiser call, and the call itself, to be made again."""
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    calls: list[tuple[Any, Any]] = []
    # A hook would be compiled with the module. Past torch's own setattr, as for any module.
    compiled, denoiser._compiled_call_impl = denoiser._compiled_call_impl, None
    hook = denoiser.register_forward_pre_hook(
        lambda _, arguments, named: calls.append((arguments, named)), with_kwargs=True
    )
    try:
        by_pipeline(pipeline, bench, b, steps=1)
    finally:
        hook.remove()
        denoiser._compiled_call_impl = compiled
    arguments, named = calls[0]

    @torch.inference_mode()
    def replay() -> object:
        return denoiser(*arguments, **named)

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        denoiser.forward(*arguments, **named)
    return counter.get_total_flops() / b, replay


def _certificate(bench: Bench, b: int) -> dict[str, Any]:
    group = bench.images[0].group()
    engine = open_engine(bench.model, group, bench.settings, max(b, 2))
    return certify(engine, group, model_name=bench.part.model).document()


def clocked(work: Callable[[], object], bench: Bench) -> float:
    """The seconds of a piece of work, until the device has done it."""
    return timed(work, bench.model.device, calls=1, warm=False)


def timed(
    work: Callable[[], object], device: torch.device, *, calls: int, warm: bool = True
) -> float:
    """Seconds a call."""
    if warm:
        work()
    _wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    _wait(device)
    return (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def sampled(device: torch.device) -> Iterator[list[float]]:
    """Percent of the time in which a kernel ran, as the driver says it, every tenth of a second."""
    found: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.1):
            found.append(float(torch.cuda.utilization(device)))

    thread = threading.Thread(target=sample, daemon=True)
    if device.type == "cuda":
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()


@contextmanager
def left_out_if_full(document: dict[str, Any], what: str) -> Iterator[None]:
    """Name what does not fit into memory, or can't be done, and go on."""
    try:
        yield
    except (torch.OutOfMemoryError, OutOfMemory):
        document["left_out"].append(f"{what}: out of memory")
        torch.cuda.empty_cache()
    except (ImagemillError, RuntimeError) as error:
        document["left_out"].append(f"{what}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())

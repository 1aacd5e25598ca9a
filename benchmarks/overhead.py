"""What both engines cost besides their arithmetic: microseconds a step and slot.

    python -m benchmarks.overhead --slots 1,4,16,32

The denoiser and the decoder cost nothing here: they return a tensor that was made before. What is
left is Python and the many small operations around a denoiser call, which a fast GPU would wait
for. The slot engine renders the same model as a generic pipeline. The same is measured for
diffusers' own pipeline with a list of B prompts and one sampler.

`parts` says where an engine's time goes. In the guided engine: the denoiser's inputs, the sampler
with the guidance, and the rest (starts, ends and bookkeeping). In the slot engine: what calls have
in common and putting them together; the pipelines' own loops, with their samplers, starts and ends;
and the rest. Rounds are interleaved, and the median is printed.
"""

import argparse
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from benchmarks.engine import run_through
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.guided.denoiser import Denoiser
from imagemill.worker.engine.guided.engine import GuidedEngine
from imagemill.worker.engine.slots.fiber import Fiber
from imagemill.worker.engine.slots.shared_passes import SharedPasses
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tools.parity.oracle import Oracle

STEPS = 20
MIXED = ("ddim", "euler", "euler_a", "dpmpp_2m", "lms")
"""Samplers that manifests name most, of five classes."""


_PARTS = (
    ("inputs", Denoiser, "__call__"),
    ("sampler", GuidedEngine, "_advance"),
    *(("inputs", SharedPasses, name) for name in ("normalized", "signature", "run")),
    ("sampler", Fiber, "resume"),
)
"""A part, and the methods that are counted as it."""


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """One way of rendering: microseconds a step and slot, in all and by part."""

    way: str
    slots: int
    microseconds: float
    parts: dict[str, float]


class FreeDenoiser(torch.nn.Module):
    """Takes a U-Net's arguments and returns noise that was drawn before."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device
        self.add_embedding = getattr(unet, "add_embedding", None)
        self._answers: dict[tuple[int, ...], torch.Tensor] = {}

    def forward(self, sample: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        """The same (rows, channels, height, width) each time."""
        if sample.shape not in self._answers:
            rows = torch.randn(sample.shape, generator=torch.Generator().manual_seed(0))
            self._answers[sample.shape] = rows.to(sample.device, sample.dtype)
        return (self._answers[sample.shape],)


class FreeDecoder(torch.nn.Module):
    """Takes a VAE's latents and returns one grey picture for each."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.config, self.dtype, self.device = vae.config, vae.dtype, vae.device
        self._scale = 2 ** (len(vae.config.block_out_channels) - 1)

    def decode(self, latents: torch.Tensor, **options: Any) -> Any:
        """(rows, 3, height, width), as a tuple or as an output object."""
        rows, _, height, width = latents.shape
        size = (rows, 3, height * self._scale, width * self._scale)
        grey = torch.zeros(size, device=latents.device, dtype=latents.dtype)
        return SimpleNamespace(sample=grey) if options.get("return_dict", True) else (grey,)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes64", help="a model of the registry")
    parser.add_argument("--slots", default="1,2,4,8,16,32", help="values of B, comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    given = parser.parse_args(words)
    settings = Settings.load()
    prepare_process(settings)
    model = load_model(load_registry(settings).find(given.model), settings=settings)
    found = measure(model, settings, [int(b) for b in given.slots.split(",")], given.rounds)
    report(found)
    document = {
        "device": str(model.device),
        "dtype": model.precision,
        "torch": torch.__version__,
        "steps": STEPS,
        "rounds": given.rounds,
        "overheads": [asdict(each) for each in found],
    }
    if given.out is not None:
        given.out.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def measure(model: Model, settings: Settings, slots: Sequence[int], rounds: int) -> list[Overhead]:
    """Each way at each B, `rounds` times in turn."""
    pipeline = as_pipeline(model.name, settings)
    model = without_cost(model)
    ways = [
        (name, b, way)
        for b in slots
        for name, way in (
            ("engine, one sampler", lambda b=b: by_engine(model, settings, b, ("ddim",))),
            ("engine, five samplers", lambda b=b: by_engine(model, settings, b, MIXED)),
            ("slots, one sampler", lambda b=b: by_engine(pipeline, settings, b, ("ddim",))),
            ("slots, five samplers", lambda b=b: by_engine(pipeline, settings, b, MIXED)),
            ("diffusers, list of B", lambda b=b: by_diffusers(model, b)),
        )
    ]
    seconds: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, b, way in ways:
            taken = way()
            if number:  # the first round warms up
                seconds[name, b].append(taken)
    return [
        Overhead(
            way=name,
            slots=b,
            microseconds=median(each["all"] for each in seconds[name, b]),
            parts={
                part: median(each[part] for each in seconds[name, b])
                for part in seconds[name, b][0]
                if part != "all"
            },
        )
        for name, b, _ in ways
    ]


def without_cost(model: Model) -> Model:
    """The model with a denoiser and a decoder that cost nothing."""
    free = {
        "unet": FreeDenoiser(model.components["unet"]),
        "vae": FreeDecoder(model.components["vae"]),
    }
    return replace(model, components={**model.components, **free})


def as_pipeline(name: str, settings: Settings) -> Model:
    """A registered model as a generic pipeline, whose denoiser and decoder cost nothing."""
    entry = replace(load_registry(settings).find(name), kind="generic")
    model = load_model(entry, settings=settings)
    unet, vae = (model.components[part] for part in ("unet", "vae"))
    unet.forward, vae.decode = FreeDenoiser(unet).forward, FreeDecoder(vae).decode
    return model


def specs(model: Model, count: int, samplers: Sequence[str]) -> list[ImageSpec]:
    """Rows that differ in seed, guidance scale and, in turn, sampler."""
    width, height = model.facts.default_size
    first = ImageSpec(
        model=model.name,
        weights_digest=model.weights_digest,
        prompt="a red circle",
        seed=0,
        width=width,
        height=height,
        steps=STEPS,
        guidance_scale=5.0,
        sampler="ddim",
    )
    return [
        replace(first, seed=number, sampler=sampler, guidance_scale=3.0 + number % 5)
        for number, sampler in zip(range(count), itertools.cycle(samplers), strict=False)
    ]


def by_engine(
    model: Model, settings: Settings, slots: int, samplers: Sequence[str]
) -> dict[str, float]:
    """Two fillings of an engine that has rendered an image already.

    So it knows the prompt, and the slot engine knows which calls share a pass.
    """
    images = specs(model, 2 * slots, samplers)
    engine = open_engine(model, images[0].group(), settings, slots)
    run_through(engine, images[:1])
    with timed_parts() as parts:
        started = time.process_time()
        run_through(engine, images)
        parts["all"] = time.process_time() - started
    parts["rest"] = parts["all"] - parts["inputs"] - parts["sampler"]
    return {part: 1e6 * seconds / (STEPS * len(images)) for part, seconds in parts.items()}


def by_diffusers(model: Model, slots: int) -> dict[str, float]:
    """Two lists of B prompts of one guidance scale."""
    images = [replace(each, guidance_scale=5.0) for each in specs(model, slots, ["ddim"])]
    oracle = Oracle(model)
    started = time.process_time()
    for _ in range(2):
        oracle.together(images)
    seconds = time.process_time() - started
    return {"all": 1e6 * seconds / (STEPS * 2 * slots)}


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Add up the seconds spent in parts of both engines."""
    parts = {"inputs": 0.0, "sampler": 0.0}

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.process_time()
            try:
                return work(*arguments)
            finally:
                parts[part] += time.process_time() - started

        return call

    with ExitStack() as patches:
        for part, owner, name in _PARTS:
            work = timed(part, getattr(owner, name))
            patches.enter_context(mock.patch.object(owner, name, work))
        yield parts


def report(found: Sequence[Overhead]) -> None:
    print(f"{'way':<24}{'B':>4}{'us a step and slot':>20}{'inputs':>9}{'sampler':>9}{'rest':>9}")
    for each in found:
        parts = "".join(f"{each.parts[name]:>9.1f}" for name in each.parts if name != "all")
        print(f"{each.way:<24}{each.slots:>4}{each.microseconds:>20.1f}{parts}")


if __name__ == "__main__":
    sys.exit(main())

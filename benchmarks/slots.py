"""How full the slot engine's passes are, and how fast it is beside lockstep calls.

    python -m benchmarks.slots fill [--families flux_dev,sana] [--images 256] [--slots 8]
    python -m benchmarks.slots speed [--images 24] [--slots 8] [--rounds 3] [--layers 2]
                                      [--manifests mixed,uniform]
    python -m benchmarks.slots engines [--images 32] [--slots 8] [--rounds 3]

`fill` renders a mixed manifest (8 to 40 steps, guidance 1 to 9, prompts of 3 to 75 tokens) with
small models of each family and counts forward passes. Their number depends on shapes alone, so each
shape is computed once, and the same result is given again. `speed` compares with diffusers'
pipeline called with lists of B prompts of equal settings, on one model that is large enough that a
pass takes 100 ms or more. `engines` compares with the guided engine on `shapes64`. Ways are
measured in turns in one process, so that their ratios hold on a noisy machine. Each prints a table,
and a JSON object as the last line of standard output.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from imagemill.db.models.registry import BUILT_IN, load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Engine, Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.inputs import no_inputs
from imagemill.worker.engine.slots.arguments import PipelineCalls
from imagemill.worker.engine.slots.engine import SlotEngine
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.models.pipelines import denoisers
from tools.small_models import families
from tools.small_models.guided import save_sdxl

STEPS = (8, 40)
GUIDANCE = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 9.0)
SAMPLERS: Mapping[str, Sequence[str]] = {
    "sd": ("ddim", "euler", "dpmpp_2m_karras", "unipc"),
    "sdxl": ("ddim", "euler", "dpmpp_2m_karras", "unipc"),
}
"""The samplers of a family's rows, where it is not the model's own for all."""

FREE_TEXTS = frozenset({"qwen_image", "z_image"})
"""Families whose denoiser gets a text as long as it is."""

_LETTERS = "abcdefgh "


@dataclass(frozen=True, kw_only=True, slots=True)
class Fill:
    """How full the passes of one family were: `fill` is the mean number of images in a pass."""

    family: str
    slots: int
    images: int
    image_calls: int
    passes: int
    fill: float
    wanted: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """The CPU seconds of one way for one manifest, and how many times as fast it is as the first.

    One thread does all the work, and other processes of the machine do not count.
    """

    manifest: str
    way: str
    seconds: float
    ratio: float


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("fill", "speed", "engines"))
    parser.add_argument("--families", default=",".join(("sd", "sdxl", *families.FAMILIES)))
    parser.add_argument("--images", type=int)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--manifests", default="mixed,uniform", help="those of `speed`")
    parser.add_argument("--layers", type=int, default=2, help="layers of the model of `speed`")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured")
    given = parser.parse_args(words)
    diffusers.logging.set_verbosity_error()
    prepare_process(Settings.load(device="cpu", threads=1))
    lines: Iterator[Fill | Speed]
    documents = []
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "fill":
            names = given.families.split(",")
            lines = fills(Path(folder), names, given.images or 256, given.slots)
        elif given.what == "speed":
            large_model(given.layers).save_pretrained(Path(folder) / "large")
            lines = (
                line
                for manifest in given.manifests.split(",")
                for line in speeds(
                    Path(folder), manifest, given.images or 24, given.slots, given.rounds
                )
            )
        else:
            lines = engines(Path(folder), given.images or 32, given.slots, given.rounds)
        for line in lines:
            print(line, file=sys.stderr, flush=True)
            documents.append(asdict(line))
    print_table(documents)
    print(json.dumps({"what": given.what, "slots": given.slots, "lines": documents}))
    return 0


def fills(folder: Path, names: Sequence[str], images: int, slots: int) -> Iterator[Fill]:
    """A line for each family, from the slot engine's own count of its passes."""
    settings = _registered(folder, names)
    for name in names:
        model = _loaded(name, folder, settings)
        for module in denoisers(model.pipeline).values():
            compute_once(module)
        rows = mixed(model, images, samplers=SAMPLERS.get(name, ("own",)))
        calls = passes = 0
        for guided in (True, False):
            group = [row for row in rows if row.guided is guided]
            engine = open_engine(model, group[0].group(), settings, slots)
            assert isinstance(engine, SlotEngine)
            render(engine, group)
            calls += engine.image_calls
            passes += engine.steps
        yield Fill(
            family=name,
            slots=slots,
            images=images,
            image_calls=calls,
            passes=passes,
            fill=round(calls / passes, 2),
            wanted=slots * (6.5 if name in FREE_TEXTS else 7.5) / 8,
        )


def compute_once(module: torch.nn.Module) -> None:
    """Give a module's first result for arguments of some shapes to all calls of these shapes."""
    forward, known = module.forward, {}

    def first(*args: Any, **kwargs: Any) -> Any:
        shapes = repr(_shapes((args, kwargs)))
        if shapes not in known:
            known[shapes] = forward(*args, **kwargs)
        return known[shapes]

    module.forward = first


def _shapes(value: Any) -> Any:
    if torch.is_tensor(value):
        return tuple(value.shape)
    if isinstance(value, list | tuple):
        return [_shapes(each) for each in value]
    if isinstance(value, dict):
        return {name: _shapes(each) for name, each in value.items()}
    return type(value)


def speeds(folder: Path, manifest: str, images: int, slots: int, rounds: int) -> Iterator[Speed]:
    """The slot engine beside lockstep calls, on a `mixed` or a `uniform` manifest.

    The model is in the folder already, as `large`.
    """
    settings = _registered(folder, ["large"])
    model = load_model(load_registry(settings).find("large"), settings=settings)
    rows = [row for row in mixed(model, 2 * images, steps=(4, 10)) if row.guided][:images]
    if manifest == "uniform":
        rows = [replace(row, steps=20, guidance_scale=4.0) for row in rows]
    engine = open_engine(model, rows[0].group(), settings, slots)
    ways: dict[str, Callable[[int], object]] = {
        "lockstep": lambda number: lockstep(model, in_round(rows, number), slots),
        "slots": lambda number: render(engine, in_round(rows, number)),
    }
    return _in_turns(manifest, ways, rounds)


def engines(folder: Path, images: int, slots: int, rounds: int) -> Iterator[Speed]:
    """The slot engine beside the guided engine, on the same weights."""
    settings = _registered(folder, ["sd"])
    registry = load_registry(settings)
    models = [load_model(registry.find(name), settings=settings) for name in (BUILT_IN, "sd")]
    mixed_rows = mixed(models[0], 2 * images, samplers=SAMPLERS["sd"])
    mixed_rows = [row for row in mixed_rows if row.guided][:images]
    uniform = [replace(row, steps=20, sampler="ddim") for row in mixed_rows]
    for manifest, rows in (("mixed", mixed_rows), ("uniform", uniform)):
        ways: dict[str, Callable[[int], object]] = {}
        for way, model in zip(("guided", "slots"), models, strict=True):
            own = [
                replace(row, model=model.name, weights_digest=model.weights_digest) for row in rows
            ]
            engine = open_engine(model, own[0].group(), settings, slots)
            ways[way] = lambda n, own=own, engine=engine: render(engine, in_round(own, n))
        yield from _in_turns(manifest, ways, rounds)


def mixed(
    model: Model,
    count: int,
    *,
    steps: tuple[int, int] = STEPS,
    samplers: Sequence[str] = ("own",),
) -> list[ImageSpec]:
    """Rows of many steps, guidance scales, samplers and lengths of text, always the same."""
    dice = random.Random(1)
    return [
        ImageSpec(
            model=model.name,
            weights_digest=model.weights_digest,
            prompt="".join(dice.choices(_LETTERS, k=dice.randint(3, 75))),
            seed=number,
            width=64,
            height=64,
            steps=min(dice.randint(*steps), dice.randint(*steps)),
            guidance_scale=GUIDANCE[number % len(GUIDANCE)],
            sampler=samplers[number % len(samplers)],
        )
        for number in range(count)
    ]


def in_round(rows: Sequence[ImageSpec], number: int) -> list[ImageSpec]:
    """The rows with other prompts in each round: an engine does not encode a text twice."""
    return [replace(row, prompt=f"{number} {row.prompt}"[:75]) for row in rows]


def render(engine: Engine, rows: Sequence[ImageSpec]) -> None:
    """All rows; free places are filled before every step, as a worker does."""
    waiting = list(enumerate(rows))
    while waiting or engine.busy:
        while waiting and (room := engine.room()):
            engine.admit(waiting[:room])
            del waiting[:room]
        for result in engine.step():
            if isinstance(result, Failed):
                raise result.error


def lockstep(model: Model, rows: Sequence[ImageSpec], slots: int) -> None:
    """The pipeline with lists of B prompts, a list for at most B images of equal settings.

    A list is filled with empty prompts, so that every pass has the same shape: so the engine
    worked before it had slots, and without that pixels would depend on the batch.
    """
    alike: dict[tuple[object, ...], list[ImageSpec]] = {}
    for row in rows:
        alike.setdefault((row.steps, row.guidance_scale, row.sampler), []).append(row)
    calls = PipelineCalls(model.pipeline, inputs=no_inputs, max_pixels=64 * 64)
    for group in alike.values():
        for start in range(0, len(group), slots):
            some = group[start : start + slots]
            call = calls.call(some[0], images=slots)
            prompts = {"prompt": [row.prompt for row in some] + [""] * (slots - len(some))}
            call.pipeline(**{**call.arguments, **prompts})


def large_model(layers: int) -> Any:
    """Stable Diffusion 3's architecture, of a size between the tests' models and real ones."""
    pipeline = families.build("stable_diffusion_3")
    config = dict(pipeline.transformer.config)
    config |= {
        "num_layers": layers,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "caption_projection_dim": 128,
    }
    torch.manual_seed(1)
    transformer = diffusers.SD3Transformer2DModel.from_config(config)
    pipeline.register_modules(transformer=transformer)
    return pipeline


def print_table(documents: Sequence[Mapping[str, Any]]) -> None:
    """The lines as a Markdown table."""
    columns = list(documents[0])
    print("| " + " | ".join(name.replace("_", " ") for name in columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for document in documents:
        print("| " + " | ".join(str(document[name]) for name in columns) + " |", flush=True)


def _in_turns(
    manifest: str, ways: Mapping[str, Callable[[int], object]], rounds: int
) -> Iterator[Speed]:
    """Each way several times, one after another; the medians of times and of ratios."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, call in ways.items():
            started = time.process_time()
            call(number)
            seconds[way].append(time.process_time() - started)
    first = next(iter(seconds.values()))
    for way, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, own, strict=True))
        yield Speed(
            manifest=manifest,
            way=way,
            seconds=round(statistics.median(own), 2),
            ratio=round(ratio, 2),
        )


def _registered(folder: Path, names: Sequence[str]) -> Settings:
    tables = []
    for name in names:
        source = load_registry(Settings.load()).find(BUILT_IN).source if name == "sd" else name
        tables.append(f'[models.{name}]\nsource = "{source}"\nkind = "generic"\n')
    (folder / "models.toml").write_text("".join(tables), "utf-8")
    return Settings.load(models=folder / "models.toml", device="cpu", dtype="fp32", threads=1)


def _loaded(name: str, folder: Path, settings: Settings) -> Model:
    if name == "sdxl":
        save_sdxl(folder / name)
    elif name != "sd":
        families.build(name).save_pretrained(folder / name)
    return load_model(load_registry(settings).find(name), settings=settings)


if __name__ == "__main__":
    sys.exit(main())

"""How exactly the engine draws what diffusers' own pipelines draw: sampler by way of working.

    python -m tools.parity [--steps 8] [--output docs/parity.md]

Writes the table, and ends with exit code 1 where a bound is broken: equal bits where the shapes
of the forward passes agree, at most 1 of 255 where they differ.
"""

import argparse
import hashlib
import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import torch
import transformers
from PIL import Image, ImageDraw

from db.registry import BUILT_IN, load_registry
from db.samplers import SAMPLERS
from db.settings import Settings
from db.specs import ImageSpec
from db.states import Outcome
from tools.oracle import Oracle, worst_difference
from worker.device import prepare_process
from worker.engine import Failed, open_engine
from worker.models import Model, load_model

SLOTS = 4
SAME_SHAPE_BOUND = 0
ALONE_BOUND = 1
FLOW_CONFIG = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The worst difference of one sampler in one way of working, in 1/255; None: no such way."""

    same_shape: int
    alone: int

    @property
    def within_bounds(self) -> bool:
        return self.same_shape <= SAME_SHAPE_BOUND and self.alone <= ALONE_BOUND


Table = Mapping[str, Mapping[str, Cell | None]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("docs/parity.md"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    diffusers.logging.set_verbosity_error()

    settings = Settings.load(device="cpu", dtype="fp32", threads=1)
    prepare_process(settings)
    model = load_model(load_registry(settings).find(BUILT_IN), settings=settings)
    table = {
        way: compare(model, settings, steps=options.steps, changes=changes)
        for way, changes in ways_of_working().items()
    }
    options.output.write_text(report(table, options.steps), encoding="utf-8")
    broken = [
        f"{way}, {name}: {cell}"
        for way, cells in table.items()
        for name, cell in cells.items()
        if cell is not None and not cell.within_bounds
    ]
    print(f"{options.output}: {sum(len(cells) for cells in table.values())} comparisons")
    for line in broken:
        print(f"out of bounds: {line}", file=sys.stderr)
    return 1 if broken else 0


def ways_of_working() -> Mapping[str, Mapping[str, object]]:
    """Way → what its rows have beyond a prompt."""
    scene, mask = (_digest(data) for data in _inputs())
    return {
        "text to image": {},
        "image to image": {"init_image": scene, "strength": 0.6},
        "inpainting": {"init_image": scene, "mask": mask, "strength": 0.8},
    }


def compare(
    model: Model, settings: Settings, *, steps: int, changes: Mapping[str, object]
) -> Mapping[str, Cell | None]:
    """Every sampler's row, all in one mixed run of the engine, against the oracle."""
    files = {_digest(data): data for data in _inputs()}
    # The flow samplers are compared on a model that is told that it predicts flow.
    flow_model = replace(model, scheduler_config=FLOW_CONFIG)
    cells: dict[str, Cell | None] = {}
    for which in (model, flow_model):
        names = [s.name for s in SAMPLERS if s.flow == (which is flow_model)]
        specs = [_spec(model, name, steps, changes) for name in names]
        engine = open_engine(which, specs[0].group(), settings, SLOTS, inputs=files.__getitem__)
        oracle = Oracle(which, files)
        waiting = list(enumerate(specs))
        while waiting or engine.busy:
            room = engine.room()
            engine.admit(waiting[:room])
            del waiting[:room]
            for result in engine.step():
                spec = specs[result.ticket]
                if isinstance(result, Failed):
                    raise result.error
                if result.outcome is not Outcome.OK:
                    raise RuntimeError(f"{spec.sampler}: {result.outcome} compares nothing")
                cells[spec.sampler] = Cell(
                    same_shape=worst_difference(
                        result.pixels, oracle.same_shape(spec, slots=SLOTS)
                    ),
                    alone=worst_difference(result.pixels, oracle.alone(spec)),
                )
    return {sampler.name: cells.get(sampler.name) for sampler in SAMPLERS}


def report(table: Table, steps: int) -> str:
    ways = list(table)
    lines = [
        "# Parity with diffusers",
        "",
        "Largest difference in one value of one pixel, in 1/255, between the engine "
        f"(B = {SLOTS}, every sampler in one mixed run) and diffusers' own pipeline class for "
        "that row. The first number: the pipeline with the engine's shapes and memory format, "
        "where equal bits are expected. The second: the row alone, whose forward passes have "
        "another shape, where at most 1 is allowed.",
        "",
        f"`shapes64`, fp32, CPU ({torch.backends.cpu.get_cpu_capability()}), one thread, "
        f"{steps} steps, guidance 5; torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}, transformers {transformers.__version__}. Written by "
        "`make parity`.",
        "",
        "| sampler | " + " | ".join(ways) + " |",
        "| --- |" + " --- |" * len(ways),
    ]
    for sampler in SAMPLERS:
        cells = [_text(table[way][sampler.name]) for way in ways]
        lines.append(f"| `{sampler.name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.same_shape} / {cell.alone}" + ("" if cell.within_bounds else " **broken**")


def _spec(model: Model, sampler: str, steps: int, changes: Mapping[str, object]) -> ImageSpec:
    values = {
        "model": model.name,
        "weights_digest": model.weights_digest,
        "prompt": "a red circle on a blue background",
        "negative_prompt": "green",
        "seed": 20,
        "width": 64,
        "height": 64,
        "steps": steps,
        "guidance_scale": 5.0,
        "sampler": sampler,
    }
    return ImageSpec(**(values | dict(changes)))


def _inputs() -> tuple[bytes, bytes]:
    """A picture, and a mask that opens its left half."""
    scene = Image.new("RGB", (64, 64), "navy")
    ImageDraw.Draw(scene).ellipse((16, 16, 48, 48), fill="orange")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    return _png(scene), _png(mask)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

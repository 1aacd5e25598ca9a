"""How exactly the engine draws what diffusers' own pipelines draw: sampler by way of working.

    python -m tools.parity [--steps 8] [--only SDXL] [--output docs/parity.md]

Writes the tables, and ends with exit code 1 where a bound is broken: equal bits where the shapes
of the forward passes agree, at most 1 of 255 where they differ.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import diffusers
import torch
import transformers

from imagemill.db.settings import Settings
from imagemill.worker.models.device import prepare_process
from tools.parity.comparisons import SLOTS, TABLES, WAYS, Difference, compare, register

SAME_SHAPE_BOUND = 0
ALONE_BOUND = 1

WHAT: Mapping[str, str] = {
    "shapes64": "Stable Diffusion's architecture, trained, predicts v. The flow samplers are "
    "compared on the same weights, taken for a model that predicts flow.",
    "shapes64, taken for a model that predicts noise": "One sampler of each kind.",
    "A U-Net made for inpainting": "Nine input channels; shapes64's weights, the rest random.",
    "A U-Net distilled from guidance": "It is told the guidance scale (LCM, TCD); shapes64's "
    "weights, the rest random.",
    "SDXL": "Two text encoders, size conditioning; small, random weights.",
    "SDXL and its refiner": "A second U-Net goes on at 0.6 of the schedule; small, random weights. "
    "Pictures start at a strength of 0.9.",
    "Unconditional": "A DDPM in pixels; small, random weights. diffusers has pipelines for these "
    "two samplers.",
    "Other pipelines": "The slot engine; small, random weights.",
    "Ways of working": "The slot engine; small, random weights. A guidance interval guides the "
    "second and third of four steps; the other pictures start at a strength of 0.6 (inpainting: "
    "0.8), a ControlNet counts 0.7, an IP-Adapter 0.8. Qwen-Image-Edit scales its picture to a "
    "megapixel; here both sides scale it to 64 x 64.",
}

_HEADS: Mapping[str, str] = {"Other pipelines": "pipeline", "Ways of working": "model"}
"""Title → what the first column has, where it is not a sampler."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", choices=TABLES, help="print this table, write nothing")
    parser.add_argument("--output", type=Path, default=Path("docs/parity.md"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    diffusers.logging.set_verbosity_error()
    prepare_process(Settings.load(device="cpu", threads=1))

    found: dict[str, list[Difference]] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = register(Path(folder))
        for title in TABLES if options.only is None else (options.only,):
            found[title] = [
                difference
                for comparison in TABLES[title](Path(folder), settings, options.steps)
                for difference in compare(comparison, settings)
            ]
    text = report(found, options.steps)
    if options.only is None:
        options.output.write_text(text, encoding="utf-8")
        text = f"{options.output}: {sum(len(rows) for rows in found.values())} comparisons"
    print(text)
    broken = [
        f"{title}, {row.title}, {row.way}: {row.same_shape} / {row.alone}"
        for title, rows in found.items()
        for row in rows
        if not within_bounds(row)
    ]
    for line in broken:
        print(f"out of bounds: {line}", file=sys.stderr)
    return 1 if broken else 0


def within_bounds(difference: Difference) -> bool:
    return difference.same_shape <= SAME_SHAPE_BOUND and difference.alone <= ALONE_BOUND


def report(found: Mapping[str, Sequence[Difference]], steps: int) -> str:
    lines = [
        "# Parity with diffusers",
        "",
        "Largest difference in one value of one pixel, in 1/255, between the engine "
        f"(B = {SLOTS}, every sampler of a column in one mixed run) and diffusers' own pipeline "
        "class for that row. The first number: the pipeline with the engine's shapes and memory "
        "format, where equal bits are expected. The second: the row alone, whose forward passes "
        "have another shape, where at most 1 is allowed.",
        "",
        f"fp32, CPU ({torch.backends.cpu.get_cpu_capability()}), one thread, {steps} steps (other "
        f"pipelines: {min(steps, 4)}), guidance 5 (other pipelines: 3.5); torch "
        f"{torch.__version__}, diffusers {diffusers.__version__}, transformers "
        f"{transformers.__version__}. Written by `make parity`, which fails where a bound is "
        "broken.",
    ]
    for title, rows in found.items():
        lines += [
            "",
            f"## {title}",
            "",
            WHAT[title],
            "",
            *_table(rows, _HEADS.get(title, "sampler")),
        ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Difference], head: str) -> list[str]:
    ways = [way for way in WAYS if any(row.way == way for row in rows)]
    cells = {(row.title, row.way): _text(row) for row in rows}
    if len(cells) < len(rows):
        raise ValueError("two rows of one title: one of them would not be seen")
    lines = [f"| {head} | " + " | ".join(ways) + " |", "| --- |" + " --- |" * len(ways)]
    for title in dict.fromkeys(row.title for row in rows):
        found = [cells.get((title, way), "-") for way in ways]
        lines.append(f"| {title} | " + " | ".join(found) + " |")
    return lines


def _text(difference: Difference) -> str:
    broken = "" if within_bounds(difference) else " **broken**"
    return f"{difference.same_shape} / {difference.alone}{broken}"

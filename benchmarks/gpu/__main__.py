"""The figures of one GPU, in parts that each take less than eight minutes.

    python -m benchmarks.gpu --list
    python -m benchmarks.gpu --only ceiling-fixed,sd15-eager-fixed,sd15-compiled-fixed
    python -m benchmarks.gpu --minutes 13

Models have random weights in the exact shapes of SD 1.5, SDXL and Flux (its transformer and
decoder), so nothing is downloaded. A part is a model, eager or compiled, with one choice of
algorithms: `fixed` (the defaults), `larger` (`cublas_workspace = ":4096:8"`) or `free`
(`reproducible = false`); or the ceiling of matrix products. It is measured in a process of its own:
the engine for each B, beside diffusers' pipeline with lists of B (`p1`) by turns, the denoiser
alone (`bare loop`), row by row (`p0`, eager only), how busy the GPU was, a short certificate.

A part that is done is not measured again (`--again` does), so an interrupted run goes on where it
was. `--minutes` begins no part that might not end in time. After each part the table and one JSON
file with all parts are written anew. `--device cpu --tiny` tries the whole way anywhere; its
figures mean nothing.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.models import RECIPES, make
from benchmarks.gpu.parts import CEILING, Part, all_parts, part_named
from benchmarks.gpu.table import write

RESULTS = Path(__file__).parents[1] / "results"
PART_SECONDS = 400.0
"""A part begins nothing new after so long. What is begun then takes a minute at most."""

_SPARE = 80.0


def main(words: Sequence[str] | None = None) -> int:
    given = _arguments(words)
    parts = [part_named(name) for name in given.only.split(",")] if given.only else []
    parts = parts or all_parts(given.models.split(","))
    if given.list:
        print("\n".join(part.name for part in parts))
        return 0
    on_gpu = given.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        print("torch sees no GPU here; --device cpu --tiny tries the way", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name(given.device) if on_gpu else given.device
    name = name.lower().replace(" ", "-") + ("-tiny" if given.tiny else "")
    folder = given.results / f"gpu-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * given.minutes
    failed = []
    for part in parts:
        out = folder / f"{part.name}.json"
        left = ends - time.monotonic() - _SPARE
        if out.exists() and not given.again:
            print(f"{part.name}: done before")
        elif left < 30:
            print(f"{part.name}: no time left; the same command goes on with it")
        elif _run(part, given, out, min(given.seconds, left)):
            print(f"{part.name}: done")
        else:
            failed.append(part.name)
        table = write(folder)
    print(table)
    if failed:
        print(f"failed: {', '.join(failed)}; their errors are above", file=sys.stderr)
    return 1 if failed else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--only", help="these parts, comma-separated")
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    parser.add_argument("--again", action="store_true", help="measure what is done again")
    parser.add_argument("--minutes", type=float, default=600, help="for all parts together")
    parser.add_argument("--seconds", type=float, default=PART_SECONDS, help="for one part")
    parser.add_argument("--slots", help="values of B, comma-separated, instead of the model's")
    parser.add_argument("--device", default="cuda", help="as the setting `device`")
    parser.add_argument("--tiny", action="store_true", help="models of a few channels")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument(
        "--weights", type=Path, default=Path("out/gpu-models"), help="folder for the models"
    )
    given = parser.parse_args(words)
    for name in given.models.split(","):
        if name not in RECIPES:
            parser.error(f"no model {name}; there are {', '.join(RECIPES)}")
    known = {part.name for part in all_parts()}
    for name in (given.only or "").split(",") if given.only else ():
        if name not in known:
            parser.error(f"no part {name}; --list names them")
    return given


def _run(part: Part, given: argparse.Namespace, out: Path, seconds: float) -> bool:
    """Measure a part in a process of its own; whether it succeeded."""
    root = given.weights / ("tiny" if given.tiny else "whole")
    folder = root / part.model
    registry = root / "models.toml"
    if part.model != CEILING and not (folder / "model_index.json").exists():
        started = time.monotonic()
        make(part.model, folder, given.device, tiny=given.tiny)
        print(f"{part.model}: made in {time.monotonic() - started:.0f} s")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    root.mkdir(parents=True, exist_ok=True)
    on_gpu = given.device.startswith("cuda")
    registry.write_text(
        "\n".join(
            r.table(root.absolute() / r.name, tiny=given.tiny, gpu=on_gpu) for r in RECIPES.values()
        )
    )
    words = [sys.executable, "-m", "benchmarks.gpu.measured", part.name]
    words += ["--folder", str(folder), "--registry", str(registry.absolute())]
    words += ["--device", given.device, "--seconds", str(seconds), "--out", str(out)]
    words += ["--slots", given.slots] if given.slots else []
    return subprocess.run(words, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())

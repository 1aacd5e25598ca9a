"""Train the example's IP-Adapter for shapes64, which reads colours, and write its folder.

    python -m tools.shapes64.train_palette --out /tmp/palette

The folder has the adapter, written every hundred steps, and its image encoder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tools.shapes64.crew import run_crew
from tools.shapes64.palette import PalettePlan, train_palette

SHAPES64 = Path(__file__).resolve().parents[2] / "worker" / "shapes64"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="train_palette",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write the IP-Adapter to")
    add("--model", type=Path, default=SHAPES64, help="folder of shapes64")
    add("--seed", type=int, default=64, help="seed of everything random (default 64)")
    add("--processes", type=int, default=1, help="single-thread processes (default 1)")
    add("--steps", type=int, default=600, help="steps of the adapter (default 600)")
    add("--sight-steps", type=int, default=400, help="steps of its image encoder (default 400)")
    add("--batch", type=int, default=32, help="pictures a step, all processes (default 32)")
    add("--pictures", type=int, default=3072, help="drawn pictures to learn from (3072)")
    add("--rate", type=float, default=0.01, help="Muon's highest rate (default 0.01)")
    return parser


def main(words: list[str] | None = None) -> None:
    """Train as the command line says."""
    given = arguments().parse_args(words)
    plan = PalettePlan(
        model=given.model,
        out=given.out,
        steps=given.steps,
        sight_steps=given.sight_steps,
        batch=given.batch // given.processes,
        pictures=given.pictures,
        rate=given.rate,
    )
    with tempfile.TemporaryDirectory(prefix="palette-") as folder:
        run_crew(train_palette, plan, folder=Path(folder), size=given.processes, seed=given.seed)


if __name__ == "__main__":
    main()

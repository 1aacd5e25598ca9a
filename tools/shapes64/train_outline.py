"""Train the example's ControlNet for shapes64, which reads outlines, and write its folder.

    python -m tools.shapes64.train_outline --out /tmp/outline
    python -m tools.shapes64.train_outline --start /tmp/outline --out /tmp/outline \
        --steps 120 --rate 0.006

The second command goes on from a folder, with a rate that falls to nothing: it smooths what the
first, if it was stopped early, has left rough. The folder is written every hundred steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tools.shapes64.crew import run_crew
from tools.shapes64.outline import OutlinePlan, train_outline

SHAPES64 = Path(__file__).resolve().parents[2] / "worker" / "shapes64"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="train_outline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write the ControlNet to")
    add("--start", type=Path, help="folder of a ControlNet to go on from")
    add("--model", type=Path, default=SHAPES64, help="folder of shapes64")
    add("--seed", type=int, default=64, help="seed of everything random (default 64)")
    add("--processes", type=int, default=1, help="single-thread processes (default 1)")
    add("--steps", type=int, default=1800, help="steps (default 1800)")
    add("--batch", type=int, default=32, help="pictures a step, all processes (default 32)")
    add("--pictures", type=int, default=6144, help="drawn pictures to learn from (6144)")
    add("--rate", type=float, default=0.01, help="Muon's highest rate (default 0.01)")
    return parser


def main(words: list[str] | None = None) -> None:
    """Train as the command line says."""
    given = arguments().parse_args(words)
    plan = OutlinePlan(
        model=given.model,
        out=given.out,
        steps=given.steps,
        batch=given.batch // given.processes,
        pictures=given.pictures,
        rate=given.rate,
        start=given.start,
    )
    with tempfile.TemporaryDirectory(prefix="outline-") as folder:
        run_crew(train_outline, plan, folder=Path(folder), size=given.processes, seed=given.seed)


if __name__ == "__main__":
    main()

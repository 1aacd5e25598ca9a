"""What the command lines of these tools have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

SHAPES64 = Path(__file__).resolve().parents[2] / "worker" / "shapes64"


def new_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows a module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_adapter_training(
    parser: argparse.ArgumentParser, *, what: str, steps: int, pictures: int
) -> None:
    """Add the options of training `what`, which works beside shapes64, with these defaults."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help=f"folder to write the {what} to")
    add("--model", type=Path, default=SHAPES64, help="folder of shapes64")
    add("--seed", type=int, default=64, help="seed of everything random (default 64)")
    add("--processes", type=int, default=1, help="single-thread processes (default 1)")
    add("--steps", type=int, default=steps, help=f"steps of the {what} (default {steps})")
    add("--batch", type=int, default=32, help="pictures a step, all processes (default 32)")
    add("--pictures", type=int, default=pictures, help=f"drawn pictures ({pictures})")
    add("--rate", type=float, default=0.01, help="Muon's highest rate (default 0.01)")

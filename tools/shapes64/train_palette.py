"""Train the example's IP-Adapter for shapes64, which reads colours, and write its folder.

    python -m tools.shapes64.train_palette --out /tmp/palette

The folder has the adapter, written every hundred steps, and its image encoder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tools.shapes64.command_line import add_adapter_training, new_parser
from tools.shapes64.crew import run_crew
from tools.shapes64.palette import PalettePlan, train_palette


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("train_palette", __doc__)
    add_adapter_training(parser, what="IP-Adapter", steps=600, pictures=3072)
    steps = "steps of its image encoder (default 400)"
    parser.add_argument("--sight-steps", type=int, default=400, help=steps)
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

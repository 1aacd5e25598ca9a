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

from tools.shapes64.command_line import add_adapter_training, new_parser
from tools.shapes64.crew import run_crew
from tools.shapes64.outline import OutlinePlan, train_outline


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("train_outline", __doc__)
    add_adapter_training(parser, what="ControlNet", steps=1800, pictures=6144)
    parser.add_argument("--start", type=Path, help="folder of a ControlNet to go on from")
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

"""P0 and P1: a script with two processes of one thread each, row by row or with lists.

    python -m benchmarks.peers.script MANIFEST.csv FOLDER --size 16

is the script as a user starts it: it reads the manifest, loads the model in each process, renders
and saves. `Scripts` keeps its processes, so that rounds can be measured without the start.
"""

import argparse
import csv
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.manifests import Request
from benchmarks.peers.pipeline import Script, parts


class Scripts:
    """The processes of the script; a context manager. Their model is loaded on entry."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._theirs = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            self._theirs.append(theirs)
            self._processes.append(context.Process(target=_serve, args=[theirs], daemon=True))

    def __enter__(self) -> Self:
        for process, theirs in zip(self._processes, self._theirs, strict=True):
            process.start()
            theirs.close()  # now a process that dies closes the pipe, and nobody waits for it
        for pipe in self._pipes:
            pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()

    def render(self, rows: Sequence[Request], folder: Path, *, size: int) -> tuple[float, int]:
        """Render all rows in lists of up to `size`; the seconds, and the U-Net's rows."""
        shares = parts(rows, size, len(self._pipes))
        started = time.monotonic()
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send((share, folder))
        row_forwards = sum(pipe.recv() for pipe in self._pipes)
        return time.monotonic() - started, row_forwards


def _serve(pipe: Any) -> None:
    """One process: render what comes, until nothing comes any more."""
    script = Script()
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        share, folder = order
        before = script.row_forwards
        for rows in share:
            script.render(rows, folder)
        pipe.send(script.row_forwards - before)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.script", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=16, help="prompts of one list")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(words)
    with given.manifest.open(encoding="utf-8") as text:
        rows = [
            Request(
                id=int(row["id"]),
                prompt=row["prompt"],
                seed=int(row["seed"]),
                sampler=row["sampler"],
                steps=int(row["steps"]),
                guidance_scale=float(row["guidance_scale"]),
            )
            for row in csv.DictReader(text)
        ]
    given.folder.mkdir(parents=True, exist_ok=True)
    with Scripts(given.processes) as scripts:
        scripts.render(rows, given.folder, size=given.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())

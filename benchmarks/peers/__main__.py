"""imagemill beside scripts, Celery and Ray, on the small model: images a second.

    python -m benchmarks.peers [--rounds 5] [--out out/bench/peers.json]

P0 is a script that calls diffusers' pipeline row by row, P1 the same with lists of rows of equal
settings, P2 a Celery task a picture, P3 Ray Data (left out where Ray is not installed). Each has a
process of one thread for each core, and so has imagemill, which is measured as a whole: from the
manifest's file to the last committed row. All ways are started and have loaded the model; then they
take turns, round by round, with other seeds in each. The U-Net must compute as many rows in each
way as the manifest asks for, or the benchmark ends with an error.

`--cold 100` instead starts each command anew for that many rows: what a person waits for.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.peers import manifests, ray_data
from benchmarks.peers.celery_tasks import CeleryPeer
from benchmarks.peers.manifests import Request
from benchmarks.peers.mill import MillPeer
from benchmarks.peers.script import Scripts
from benchmarks.scale.servers import BenchmarkPostgres, scratch
from imagemill.scheduler_jobs.local.valkey import EmbeddedValkey

Render = Callable[[Sequence[Request], Path], tuple[float, int]]

KINDS = ("p0", "p1", "p2", "p3", "mill")
WAYS = ("p0", "p1-8", "p1-16", "p2", "p3-16", "mill-8", "mill-16")
"""Those that are measured by default: a kind, and how many rows it renders at once."""

BASE = "p1-16"
"""What the other ways are compared with."""


def main(words: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(words)
    os.environ["OMP_NUM_THREADS"] = "1"  # for every process that is started from here
    about = machine.describe()
    print(machine.line(about), flush=True)
    with scratch() as folder:
        if given.cold:
            found = {"cold": cold(given.cold, given, folder)}
        else:
            found = {"warm": warm(given, folder)}
    if given.out is not None:
        document = json.loads(given.out.read_text()) if given.out.exists() else {}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(document | {"machine": about} | found, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS), help="which ones, with commas")
    parser.add_argument("--uniform", type=int, default=480, help="rows; 0 leaves them out")
    parser.add_argument("--mixed", type=int, default=300, help="rows of 100 combinations")
    parser.add_argument("--different", type=int, default=300, help="rows that mostly differ")
    parser.add_argument("--cold", type=int, metavar="ROWS", help="whole commands, for uniform rows")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    return parser


# Warm --------------------------------------------------------------------------------------


def warm(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A line for each manifest and way: images a second, and how many times those of P1."""
    wanted = {
        "uniform": manifests.uniform(given.uniform),
        "mixed": manifests.mixed(given.mixed),
        "different": manifests.different(given.different),
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    with _opened(given, folder) as ways:
        for number in range(given.rounds):
            for name, rows in wanted.items():
                for way, render in ways.items() if rows else ():
                    taken = _rendered(render, manifests.in_round(rows, number), folder)
                    seconds.setdefault((name, way), []).append(taken)
                    print(
                        f"round {number + 1}: {name:10} {way:8} {len(rows) / taken:8.2f} images/s",
                        file=sys.stderr,
                        flush=True,
                    )
    lines = []
    for (name, way), own in seconds.items():
        rates = [len(wanted[name]) / each for each in own]
        base = seconds.get((name, BASE), own)
        ratio = statistics.median(b / a for a, b in zip(own, base, strict=True))
        lines.append(
            {
                "manifest": name,
                "rows": len(wanted[name]),
                "way": way,
                "images_per_second": round(statistics.median(rates), 2),
                "least": round(min(rates), 2),
                "most": round(max(rates), 2),
                f"times_{BASE}": round(ratio, 3) if (name, BASE) in seconds else None,
                "rounds": len(own),
            }
        )
    _print(lines)
    return lines


def _rendered(render: Render, rows: Sequence[Request], folder: Path) -> float:
    """Render in one way; the seconds. Raises `AssertionError` if the work was not the same."""
    with tempfile.TemporaryDirectory(dir=folder) as pictures:
        taken, row_forwards = render(rows, Path(pictures))
    wanted = manifests.row_forwards(rows)
    assert row_forwards == wanted, f"the U-Net computed {row_forwards} rows, not {wanted}"
    return taken


@contextmanager
def _opened(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Render]]:
    """The ways that were asked for, started; and what they need."""
    ways: dict[str, Render] = {}
    with ExitStack() as stack:
        asked = given.ways.split(",")
        if unknown := [way for way in asked if way.partition("-")[0] not in KINDS]:
            raise SystemExit(f"no way {', '.join(unknown)}; ways begin with {', '.join(KINDS)}")
        if any(way.startswith(("p0", "p1")) for way in asked):
            scripts = stack.enter_context(Scripts(given.processes))
            for way in asked:
                if way.startswith(("p0", "p1")):
                    ways[way] = partial(scripts.render, size=_size(way))
        if "p2" in asked:
            ways["p2"] = _celery(stack, given, folder)
        for way in asked:
            if way.startswith("p3") and ray_data.is_installed():
                call = partial(ray_data.render, size=_size(way), processes=given.processes)
                ways[way] = call
            elif way.startswith("p3"):
                print(f"{way}: Ray is not installed here, so it is left out", flush=True)
        mills = [way for way in asked if way.startswith("mill")]
        if mills and given.database == "postgres":
            server = stack.enter_context(BenchmarkPostgres(folder))
        for way in mills:
            place = folder / way
            place.mkdir(mode=0o711)
            url = f"sqlite:///{place}/imagemill.sqlite3"
            if given.database == "postgres":
                url = server.create_database(way.replace("-", ""))
            broker = stack.enter_context(EmbeddedValkey(place / "broker", loopback=True))
            peer = MillPeer(url, broker.url, place, slots=_size(way), processes=given.processes)
            stack.enter_context(peer)
            ways[way] = lambda rows, _, peer=peer: peer.render(rows)
        yield {way: ways[way] for way in asked if way in ways}


def _celery(stack: ExitStack, given: argparse.Namespace, folder: Path) -> Render:
    place = folder / "p2"
    place.mkdir()
    broker = stack.enter_context(EmbeddedValkey(place / "broker", loopback=True))
    peer = stack.enter_context(CeleryPeer(broker.url, given.processes, place))
    # Each process loads its model with its first task; loading takes longer than rendering these.
    peer.render(manifests.uniform(4 * given.processes), place)
    return peer.render


def _size(way: str) -> int:
    """How many rows a way renders at once."""
    return int(way.partition("-")[2] or 1)


# Cold --------------------------------------------------------------------------------------


def cold(count: int, given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Seconds of whole commands, each started anew, in turns."""
    manifest = folder / "cold.csv"
    manifests.write(manifests.uniform(count), manifest)
    python = [sys.executable, "-m"]
    script = [*python, "benchmarks.peers.script", str(manifest), "{out}"]
    script += ["--processes", str(given.processes)]
    commands = {way: [*script, "--size", str(_size(way))] for way in ("p0", BASE)}
    commands["imagemill run"] = [*python, "imagemill", "run", str(manifest), "--out", "{out}"]
    seconds: dict[str, list[float]] = {way: [] for way in commands}
    for _ in range(given.rounds):
        for way, command in commands.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                words = [word.format(out=f"{out}/out") for word in command]
                started = time.monotonic()
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
                seconds[way].append(time.monotonic() - started)
    lines = [
        {
            "way": way,
            "rows": count,
            "seconds": round(statistics.median(own), 2),
            "least": round(min(own), 2),
            "most": round(max(own), 2),
            "rounds": len(own),
        }
        for way, own in seconds.items()
    ]
    _print(lines)
    return lines


def _print(lines: Sequence[Mapping[str, Any]]) -> None:
    """The lines as a Markdown table."""
    columns = list(lines[0])
    print("| " + " | ".join(name.replace("_", " ") for name in columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for each in lines:
        print("| " + " | ".join(str(each[name]) for name in columns) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())

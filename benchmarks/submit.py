"""How fast a manifest is planned and submitted: `python -m benchmarks.submit [--rows N]`.

Writes a CSV of N rows, and plans and submits it to a SQLite file and to a PostgreSQL of its own,
each in a process of its own, in turns. Prints the median of the rounds: seconds of the clock and of
the processor, of this process and of PostgreSQL's, and the most memory of the submitting process.
The same as JSON with `--json FILE`. On a machine that others use too, only the processor's seconds
say something.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from imagemill.db.database import Database
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.submit.plan import plan
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit
from tests.helpers.servers.postgres import Postgres

WAYS = ("plan", "sqlite", "sqlite again", "postgres", "postgres again")
"""`again` submits what is there already."""


def write_manifest(file: Path, rows: int) -> None:
    """Prompts in quotes that fit the window, and a column that is kept as it stands."""
    with file.open("w") as stream:
        stream.write("prompt,Category\n")
        for number in range(rows):
            stream.write(f'"a red circle, number {number} on a blue background",shapes\n')


def settings_for(folder: Path, url: str) -> Settings:
    # Nobody listens at this broker: nothing is woken.
    return Settings(database_url=url, storage_url=str(folder), broker_url="redis://127.0.0.1:1/0")


def run_way(way: str, folder: Path, url: str) -> dict[str, float]:
    """One of `WAYS` in this process."""
    settings = settings_for(folder, url)
    request = SubmissionRequest(manifest=str(folder / "bench.csv"))
    wall, busy = time.perf_counter(), time.process_time()
    if way == "plan":
        plan(request, settings=settings, database=None)
    else:
        database = Database(url)
        submit(request, settings=settings, database=database)
        database.close()
    return {
        "seconds": time.perf_counter() - wall,
        "own CPU s": time.process_time() - busy,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def server_cpu(server: Postgres) -> float:
    """The processor's seconds that a server has used, with the connections that are over."""
    main = psutil.Process(server.pid)
    total = sum(main.cpu_times()[:4])
    for child in main.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def places(folder: Path) -> Iterator[tuple[dict[str, str], Postgres]]:
    """Fresh databases: their addresses by name, and the server of the second."""
    with Postgres() as server:
        file = f"sqlite:///{folder}/bench.sqlite3"
        yield {"sqlite": file, "postgres": server.create_database()}, server


def measure(rows: int, ways: Sequence[str]) -> dict[str, dict[str, float]]:
    """Every one of these ways once."""
    spawn = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_manifest(folder / "bench.csv", rows)
        urls, server = stack.enter_context(places(folder))
        for url in urls.values():
            database = Database(url)
            migrate(database)
            database.close()
        for way in ways:
            before = server_cpu(server)
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                url = urls[way.split()[0] if way != "plan" else "sqlite"]
                found[way] = pool.submit(run_way, way, folder, url).result()
            spent = server_cpu(server) - before
            found[way]["server's CPU s"] = spent if way.startswith("postgres") else 0.0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    rounds = [measure(arguments.rows, arguments.ways) for _ in range(arguments.rounds)]
    medians = {
        way: {
            name: statistics.median(each[way][name] for each in rounds) for name in rounds[0][way]
        }
        for way in arguments.ways
    }
    names = list(medians[arguments.ways[0]])
    print(f"{arguments.rows:,} rows; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'':16}", *(f"{name:>15}" for name in names), f"{'CPU us/row':>12}")
    for way, values in medians.items():
        busy = (values["own CPU s"] + values["server's CPU s"]) / arguments.rows * 1e6
        print(f"{way:16}", *(f"{values[name]:15.2f}" for name in names), f"{busy:12.1f}")
    if arguments.json is not None:
        about = {"rows": arguments.rows, "machine": platform.platform(), "cores": os.cpu_count()}
        about |= {"python": platform.python_version(), "load": os.getloadavg()[0]}
        arguments.json.write_text(json.dumps({**about, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()

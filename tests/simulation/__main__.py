"""Run as many histories as wanted; the last line is an object with the counts.

A history is named by seed and number: `--seed 1 --only 17` tells one again, step by step.
"""

import argparse
import json
import multiprocessing
import sys
import time
from functools import partial

from tests.simulation.histories import collect_seldom, run_history


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=40, help="steps of one history")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", type=int, help="tell this history alone")
    arguments = parser.parse_args()
    if arguments.only is not None:
        return tell(f"{arguments.seed}-{arguments.only}", arguments.steps)
    started = time.monotonic()
    names = [f"{arguments.seed}-{number}" for number in range(arguments.histories)]
    run = partial(run_history, count=arguments.steps)
    steps = 0
    broken: list[str] = []
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.processes, collect_seldom) as pool:
        for name, (taken, _, promise) in zip(names, pool.imap(run, names, 20), strict=True):
            steps += taken
            if promise is not None:
                broken.append(f"history {name}, step {taken}: {promise}")
    for line in broken[:20]:
        sys.stdout.write(f"{line}\n")
    result = {
        "histories": arguments.histories,
        "steps": steps,
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started, 1),
        "violations": len(broken),
    }
    sys.stdout.write(f"{json.dumps(result)}\n")
    return 1 if broken else 0


def tell(name: str, steps: int) -> int:
    """Print every step of one history and what it broke."""
    _, taken, promise = run_history(name, steps)
    sys.stdout.write("\n".join([*taken, promise or "every promise was kept", ""]))
    return 1 if promise else 0


if __name__ == "__main__":
    raise SystemExit(main())

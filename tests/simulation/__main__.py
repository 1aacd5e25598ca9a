"""Run as many histories as wanted; the last line is an object with the counts."""

import argparse
import json
import sys
import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import Histories


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=40, help="most steps of one history")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    Histories.raising = False
    started = time.monotonic()
    run_state_machine_as_test(
        seed(arguments.seed)(Histories),
        settings=settings(
            max_examples=arguments.histories,
            stateful_step_count=arguments.steps,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for line in Histories.broken[:20]:
        sys.stdout.write(f"{line}\n")
    result = {
        "histories": Histories.started,
        "steps": Histories.steps,
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started, 1),
        "violations": len(Histories.broken),
    }
    sys.stdout.write(f"{json.dumps(result)}\n")
    return 1 if Histories.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())

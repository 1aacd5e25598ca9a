"""How fast near-duplicates are found: `python -m benchmarks.duplicates [--hashes N] [--json FILE]`.

Groups N hashes of 64 bits, one in ten of them a near-duplicate of another, at several distances,
each in a process of its own. Prints seconds and peak memory, checks the groups against those that
were made, and writes the same as JSON with `--json FILE`.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.scheduler_jobs.curation.hamming import group_hashes

DISTANCES = (0, 2, 4, 6, 7)
TARGET_SECONDS = 60.0
"""What a million hashes may take."""


def made(count: int, distance: int) -> tuple[NDArray[np.uint64], int]:
    """Random hashes, one in ten copied with up to `distance` bits flipped; how many groups."""
    rng = np.random.default_rng(7)
    copies = count // 10
    originals = rng.integers(0, 2**64, count - copies, dtype=np.uint64)
    flipped = originals[:copies].copy()
    for _ in range(distance):
        flipped ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    return rng.permutation(np.concatenate([originals, flipped])), count - copies


def measure(count: int, distance: int) -> dict[str, float]:
    """Seconds and peak memory of one grouping; in this process."""
    hashes, groups = made(count, distance)
    started = time.perf_counter()
    found = int(group_hashes(hashes, distance).max()) + 1
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # Random hashes may be near each other too: a few of them at large distances.
    assert 0.999 * groups < found <= groups, (found, groups)
    return {
        "hashes": count,
        "distance": distance,
        "groups": found,
        "seconds": round(seconds, 2),
        "peak_mib": round(peak),
    }


def main() -> int:
    """Print a table; 0 when a million hashes stay below the target, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.hashes, given.one)))
        return 0
    print(f"{'hashes':>10}{'distance':>10}{'groups':>10}{'seconds':>10}{'peak MiB':>10}")
    results = []
    for distance in DISTANCES:
        command = [sys.executable, "-m", "benchmarks.duplicates", "--hashes", str(given.hashes)]
        done = subprocess.run(
            [*command, "--one", str(distance)], capture_output=True, text=True, check=True
        )
        row = json.loads(done.stdout)
        results.append(row)
        print("".join(f"{value:>10,}" for value in row.values()), flush=True)
    if given.json:
        machine = {"processor": platform.machine(), "cores": os.cpu_count()}
        given.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    slowest = max(row["seconds"] for row in results)
    return 0 if slowest * 1_000_000 <= TARGET_SECONDS * given.hashes else 1


if __name__ == "__main__":
    raise SystemExit(main())

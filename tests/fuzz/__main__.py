"""`python -m tests.fuzz --rows N --seed S`: a campaign of any length; exit code 1 on a finding."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict

from tests.fuzz.campaign import run, submitter


def main() -> int:
    """Run, print the findings, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ["IMAGEMILL_CONFIG"] = os.devnull
    began = time.monotonic()
    with submitter() as feed:
        result = run(rows=options.rows, seed=options.seed, feed=feed)
    for finding in result.findings:
        sys.stderr.write(f"{finding}\n")
    seconds = round(time.monotonic() - began, 1)
    document = asdict(result) | {"rows": result.rows, "seconds": seconds, "sound": result.sound}
    del document["findings"]
    sys.stdout.write(f"{json.dumps(document)}\n")
    return 0 if result.sound else 1


if __name__ == "__main__":
    sys.exit(main())

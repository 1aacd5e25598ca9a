"""What one PostgreSQL and one broker serve: simulated workers, large tables, bytes an image.

    python -m benchmarks.scale [throughput] [claims] [bytes] [--out out/bench/scale.json]

`throughput` lets 200 simulated workers do the shifts of production; only the device, the encoding
and the store cost nothing. `claims` compares the cost of a claim of 8 in tables of 10,000 and of
1,000,000 rows (`--sizes 10000,1000000,10000000` adds ten million: minutes, and 12 GB of disk).
`bytes` submits a manifest and finishes it, and measures tables and indexes. Each part prints a
table. With `--out` each part is written when it is done, and a part that is there already is left
out unless `--again` is given. The servers are started from wheels, durable, in a scratch folder.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.scale import throughput
from benchmarks.scale.fleet import Device
from benchmarks.scale.table_size import bytes_per_image, claim_costs
from benchmarks.scale.throughput import Plan

PARTS = ("throughput", "claims", "bytes")


def main(words: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(words)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found: dict[str, Any] = {}
    if given.out is not None and given.out.exists():
        found = json.loads(given.out.read_text())
    found["machine"] = machine.describe()
    print(machine.line(found["machine"]))
    sound = True
    for part in given.parts or PARTS:
        if part in found and not given.again:
            print(f"\n{part}: it is in {given.out} already; --again measures it anew")
            continue
        found[part] = _measured(part, given)
        print(f"\n{part}")
        _print(found[part])
        sound = sound and not found[part].get("violations")
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if sound else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; or all")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--again", action="store_true", help="also parts that are in the file")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long is measured")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds before that")
    parser.add_argument("--shift-seconds", type=float, default=60.0, help="in production 600")
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--processes", type=int, default=4, help="of simulated workers")
    parser.add_argument("--slots", type=int, default=16, help="B of a device")
    parser.add_argument("--rate", type=float, default=10.0, help="images a second of a device")
    parser.add_argument("--mixed", action="store_true", help="images of a batch end one by one")
    parser.add_argument("--statements", action="store_true", help="what each statement costs")
    parser.add_argument("--sizes", default="10000,1000000", help="ready rows of `claims`")
    parser.add_argument("--claims", type=int, default=300, help="claims in each size")
    parser.add_argument("--rows", type=int, default=100_000, help="images of `bytes`")
    return parser


def _measured(part: str, given: argparse.Namespace) -> dict[str, Any]:
    if part == "claims":
        sizes = [int(size) for size in given.sizes.split(",")]
        return claim_costs(sizes, claims_each=given.claims)
    if part == "bytes":
        return bytes_per_image(given.rows)
    device = Device(slots=given.slots, images_per_second=given.rate, mixed=given.mixed)
    return throughput.measure(
        Plan(
            workers=given.workers,
            processes=given.processes,
            seconds=given.seconds,
            warm_up=given.warm_up,
            shift_seconds=given.shift_seconds,
            device=device,
            statements=given.statements,
        )
    )


def _print(figures: Mapping[str, Any]) -> None:
    """Single figures one a line, lists of figures as tables."""
    tables = {name: value for name, value in figures.items() if isinstance(value, list)}
    for name, value in figures.items():
        if name not in tables:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            shown = f"{value:,}" if number else value
            print(f"  {name.replace('_', ' '):30} {shown}")
    for name, lines in tables.items():
        if not lines:
            continue
        print(f"  {name}")
        if not isinstance(lines[0], dict):
            print("\n".join(f"    {each}" for each in lines))
            continue
        widths = {
            column: max(len(column), *(len(str(each[column])) for each in lines))
            for column in lines[0]
        }
        for cells in ({column: column for column in widths}, *lines):
            print("    " + "  ".join(str(cells[c]).rjust(width) for c, width in widths.items()))


if __name__ == "__main__":
    sys.exit(main())

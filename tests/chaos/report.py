"""The table of a campaign, on the screen and in `docs/reliability.md`.

`python -m tests.chaos.report docs/reliability.md out/chaos` writes the page's table anew from
what campaigns and baselines left in a folder; `--report` of either command does it as well.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.checker import LOST_TRY

CAMPAIGN = "campaign.json"
BASELINE = "baseline.json"
SPARED = "baseline-broker-spared.json"

COLUMNS = {
    CAMPAIGN: "imagemill",
    BASELINE: "plain Celery",
    SPARED: "plain Celery, broker spared",
}
"""The results that the page shows, by the file that holds them."""

BEGIN = "<!-- written by `python -m tests.chaos --report` -->"
END = "<!-- end of what is written -->"

Result = Mapping[str, Any]


def table(results: Mapping[str, Result]) -> str:
    """A Markdown table of results by their name, a column each; rows that none has are left out."""
    lines = [["", *results]]
    for label, cell in _rows(results):
        cells = [cell(result) for result in results.values()]
        if any(cells):
            lines.append([label, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def refill(page: Path, folder: Path) -> None:
    """Write the page's table anew from the results in `folder`."""
    results = {
        name: json.loads((folder / file).read_text())
        for file, name in COLUMNS.items()
        if (folder / file).exists()
    }
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: no place between {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


def _rows(results: Mapping[str, Result]) -> list[tuple[str, Callable[[Result], str]]]:
    every = results.values()
    recoveries = {name for result in every for name in result.get("recovery", {})}
    faults = {kind for result in every for kind in result["s3_by_kind"]}
    counted = {name for result in every for name in result.get("counted", {})}
    causes = {name.removeprefix(LOST_TRY) for name in counted if name.startswith(LOST_TRY)}
    return [
        ("seed", _plain("seed")),
        ("kill -9, all", _plain("kills")),
        *((f"… {role}", _killed(role)) for role in _ROLES),
        ("… of these at a named place in the code", _at_crash_points),
        ("broker lost all its data", _plain("broker_losses")),
        ("Postgres restarts", _plain("pg_restarts")),
        ("S3 server killed and started again", _plain("store_deaths")),
        ("servers that stood still", _plain("stalls")),
        *((f"… {server}", _kind(f"stall {server}")) for server in _SERVERS),
        ("servers that were slow", _plain("slow_disks")),
        *((f"… {server}", _kind(f"slow {server}")) for server in _SERVERS),
        ("clocks that jumped", _plain("clock_jumps")),
        ("… the database's", _kind("clock database")),
        ("… of all other processes", _kind("clock processes")),
        ("faulted S3 requests (of)", _s3_faults),
        *((f"… {kind}", _s3_kind(kind)) for kind in sorted(faults)),
        ("workers frozen past their lease", _plain("freezes")),
        ("… with the real engine", _plain("real_engine_freezes")),
        ("images requested", _plain("images")),
        ("… of the real engine", _plain("real_engine_images")),
        ("shifts (lost)", _shifts),
        *((f"seconds until {name}", _recovery(name)) for name in sorted(recoveries)),
        ("tries of an innocent image alone, lost with its worker", _lost_tries),
        *((f"… {cause}", _counted(f"{LOST_TRY}{cause}")) for cause in sorted(causes)),
        ("… most of one image", _counted("most lost tries")),
        ("stateful histories", _plain("histories")),
        ("images lost", _strong("lost")),
        ("images done twice", _strong("doubled")),
        ("violations", _strong("violations")),
        ("minutes", lambda result: f"{result['seconds'] / 60:.1f}"),
    ]


_ROLES = {
    "worker": "worker",
    "worker with the real engine": "renderer",
    "producer": "producer",
    "dispatcher": "dispatcher",
    "broker": "broker",
    "database": "database",
    "store": "store",
}


_SERVERS = ("database", "broker", "store")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _plain(name: str) -> Callable[[Result], str]:
    return lambda result: str(result["seed"]) if name == "seed" else _number(result.get(name))


def _strong(name: str) -> Callable[[Result], str]:
    """What must be zero is seen where it is not."""

    def cell(result: Result) -> str:
        value = result.get(name)
        return f"**{value:,}**" if value else _number(value)

    return cell


def _killed(role: str) -> Callable[[Result], str]:
    name = f"kill {_ROLES[role]}"

    def cell(result: Result) -> str:
        found = [n for kind, n in result["by_kind"].items() if kind.startswith(name)]
        return _number(sum(found)) if found else ""

    return cell


def _kind(name: str) -> Callable[[Result], str]:
    return lambda result: _number(result["by_kind"].get(name))


def _at_crash_points(result: Result) -> str:
    found = [n for kind, n in result["by_kind"].items() if kind.endswith("crash point")]
    return _number(sum(found)) if found else ""


def _s3_faults(result: Result) -> str:
    return f"{result['s3_faults']:,} ({result['s3_requests']:,})"


def _s3_kind(kind: str) -> Callable[[Result], str]:
    return lambda result: _number(result["s3_by_kind"].get(kind))


def _shifts(result: Result) -> str:
    counted = result.get("counted", {})
    if "shifts" not in counted:
        return ""
    return f"{counted['shifts']:,} ({counted['shifts lost']:,})"


def _lost_tries(result: Result) -> str:
    counted = result.get("counted", {})
    found = [count for name, count in counted.items() if name.startswith(LOST_TRY)]
    return _number(sum(found)) if found else ""


def _counted(name: str) -> Callable[[Result], str]:
    return lambda result: _number(result.get("counted", {}).get(name))


def _recovery(name: str) -> Callable[[Result], str]:
    def cell(result: Result) -> str:
        found = result.get("recovery", {}).get(name)
        if found is None:
            return ""
        return f"{found['median']} / {found['p95']} / {found['max']} ({found['count']:,})"

    return cell


if __name__ == "__main__":
    refill(Path(sys.argv[1]), Path(sys.argv[2]))

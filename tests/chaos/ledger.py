"""What all campaigns together have broken: a line of JSON for each, and the table of their sum.

`python -m tests.chaos --record FILE` adds a campaign at its end. `python -m tests.chaos.ledger FILE
campaign.json … --commit COMMIT` adds what earlier ones left behind. A campaign with violations is
added like any other: the table shows what was seen.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.helpers.places import ROOT

LEDGER = ROOT / "benchmarks" / "campaigns.jsonl"

BEGIN = "<!-- written by `python -m tests.chaos.ledger` -->"
END = "<!-- end of the sum -->"

HOLDERS_KILLED = "holders_killed"
"""The field with the kills of processes that held images, as far as was seen; older campaigns did
not count them."""

SETTLE_SECONDS = "settle_seconds"
"""The field with the seconds from the last fault until everything was over; older campaigns did
not measure them."""

_SUMS = {
    "kill -9": "kills",
    "broker lost all its data": "broker_losses",
    "Postgres restarts": "pg_restarts",
    "S3 server killed and started again": "store_deaths",
    "servers that stood still": "stalls",
    "servers that were slow": "slow_disks",
    "clocks that jumped": "clock_jumps",
    "faulted S3 requests": "s3_faults",
    "workers frozen past their lease": "freezes",
    "images requested": "images",
    "images lost": "lost",
    "images done twice": "doubled",
    "violations": "violations",
}
"""The rows of the table, and the field of a campaign that each adds up."""


def entry_of(result: Mapping[str, Any], *, commit: str, at: datetime) -> dict[str, Any]:
    """What is kept of a campaign's result. `at` is when it ended, `commit` the code it ran."""
    roles: Counter[str] = Counter()
    for kind, count in result["by_kind"].items():
        word, _, rest = kind.partition(" ")
        if word == "kill":
            roles[rest.removesuffix(" at a crash point")] += count
    named = {name: result.get(name, 0) for name in ("seed", *_SUMS.values(), "seconds")}
    named |= {name: result[name] for name in (HOLDERS_KILLED, SETTLE_SECONDS) if name in result}
    return {
        "at": at.isoformat(timespec="seconds"),
        "commit": commit,
        **named,
        "lease_seconds": result.get("lease_seconds"),
        "kills_by_role": dict(sorted(roles.items())),
        "violations_by_rule": result.get("violations_by_rule", {}),
        "complete": result["complete"],
    }


def add(ledger: Path, entry: Mapping[str, Any]) -> None:
    """Append a campaign. The same one (seed, time and commit) is not added twice."""
    known = {_identity(each) for each in entries(ledger)}
    if _identity(entry) not in known:
        with ledger.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def entries(ledger: Path) -> list[dict[str, Any]]:
    """Every campaign, in the order in which they were added."""
    if not ledger.exists():
        return []
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def sums(campaigns: Collection[Mapping[str, Any]]) -> dict[str, int]:
    """Every row of the table: its label, and the sum over all campaigns."""
    found = {"campaigns": len(campaigns)}
    for label, field in _SUMS.items():
        found[label] = sum(each.get(field, 0) for each in campaigns)  # older ones have fewer kinds
        if field == "kills":
            roles = sum((Counter(each["kills_by_role"]) for each in campaigns), Counter[str]())
            found |= {f"… {role}": count for role, count in sorted(roles.items())}
            asked = [each for each in campaigns if HOLDERS_KILLED in each]
            if asked:
                of = sum(each["kills"] for each in asked)
                held = sum(each[HOLDERS_KILLED] for each in asked)
                found[f"… seen to hold images, of the last {of:,}"] = held
    settled = [each[SETTLE_SECONDS] for each in campaigns if each.get(SETTLE_SECONDS)]
    if settled:
        label = "seconds from the last fault until all was over, in the last"
        found[f"{label} {len(settled)}: median"] = round(median(settled))
        found["… the longest"] = round(max(settled))
    return found


def table(campaigns: Collection[Mapping[str, Any]]) -> str:
    """The sums as a Markdown table."""
    lines = [(label, f"{count:,}") for label, count in sums(campaigns).items()]
    first, second = (max(map(len, column)) for column in zip(*lines, strict=True))
    rule = f"| {'-' * first} | {'-' * (second - 1)}: |"
    body = [f"| {label:<{first}} | {count:>{second}} |" for label, count in lines]
    return "\n".join([f"| {'':<{first}} | {'all':>{second}} |", rule, *body])


def rewrite(page: Path, ledger: Path) -> None:
    """Write the page's table of all campaigns anew."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: no place between {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n{table(entries(ledger))}\n{END}{after}")


def commit_here() -> str:
    """The commit of this checkout, with `+` if files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True
        )
        return done.stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("diff", "HEAD", "--stat") else "")


def _identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["seed"], entry["at"], entry["commit"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.ledger", description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("results", type=Path, nargs="*", help="files `campaign.json` to add")
    parser.add_argument("--commit", help="the code that they ran; default: this checkout's")
    parser.add_argument("--report", type=Path, help="the page whose table of all is written anew")
    given = parser.parse_args()
    for file in given.results:
        ended = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        result = json.loads(file.read_text())
        commit = given.commit or commit_here()
        add(given.ledger, entry_of(result, commit=commit, at=ended))
    if given.report is not None:
        rewrite(given.report, given.ledger)
    sys.stdout.write(table(entries(given.ledger)) + "\n")


if __name__ == "__main__":
    main()

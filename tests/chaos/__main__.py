"""`python -m tests.chaos`: one campaign. The last line is a JSON object; exit 1 if not sound."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagemill.db.database import Database
from imagemill.db.queries.audit import audit
from tests.chaos import ledger
from tests.chaos.campaign import HOLDERS, Campaign
from tests.chaos.plan import Plan
from tests.chaos.report import CAMPAIGN, COLUMNS, refill, table
from tests.chaos.stage import Stage

SHOWN = 50

DRAIN_SECONDS = 120
"""How long requests of dead clients may be on their way; the proxy gives them up after 60."""


def main() -> int:
    plan, folder, page, record = _arguments()
    commit = ledger.commit_here()  # before it runs: this checkout may be another one when it ends
    folder.mkdir(parents=True, exist_ok=True)
    for left in ("history.jsonl", "actors.log"):
        # Of an earlier campaign: what it appended is not this one's to answer for.
        (folder / left).unlink(missing_ok=True)
    simulation = _Simulation(plan, folder)
    try:
        result = run(plan, folder)
        histories = simulation.result()
    finally:
        simulation.end()
    result["histories"] = histories["histories"]
    result["violations"] += histories["violations"]
    result["complete"] &= histories["histories"] >= plan.histories
    (folder / CAMPAIGN).write_text(json.dumps(result, indent=1))
    if record is not None:
        ledger.add(record, ledger.entry_of(result, commit=commit, at=datetime.now(UTC)))
    _say(table({COLUMNS[CAMPAIGN]: result}))
    if not result["complete"]:
        _say(f"not everything was broken as often as planned in {plan.minutes:g} minutes")
    if page is not None:
        refill(page, folder)
    _say(json.dumps(result))
    return 1 if result["violations"] or not result["complete"] else 0


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """One campaign; its counts and violations. What it leaves behind is in `folder`."""
    started = time.monotonic()
    with Stage(folder, lease_seconds=plan.lease_seconds) as stage:
        campaign = Campaign(plan, stage, folder)
        try:
            campaign.run(_progress)
            campaign.submit_again()
            reference = campaign.render_again()
        finally:
            campaign.close()
        broken = campaign.broken + _audit(stage)
        checked = _check(stage, campaign, reference)
    broken += checked["violations"]
    for violation in broken[:SHOWN]:
        _say(violation)
    pace, counted = campaign.pace, checked["counted"]
    counts = pace.counts
    renderers = [n for name, n in counts.items() if name.startswith("kill renderer")]
    return {
        "seed": plan.seed,
        "kills": pace.kills,
        "holders_killed": counts[HOLDERS],
        "broker_losses": counts["broker losses"],
        "pg_restarts": counts["Postgres restarts"],
        "store_deaths": counts["store deaths"],
        "stalls": counts["stalls"],
        "slow_disks": counts["slow disks"],
        "clock_jumps": counts["clock jumps"],
        "s3_faults": counts["S3 faults"],
        "s3_fault_kinds": len(stage.proxy.injected),
        "s3_requests": stage.proxy.requests.total(),
        "freezes": counts["freezes"] + counts["freeze renderer"],
        "real_engine_kills": sum(renderers),
        "real_engine_freezes": counts["freeze renderer"],
        "real_engine_images": counted["requested of the real engine"],
        "images": counted["requested"],
        "lost": counted["lost"],
        "doubled": counted["doubled"],
        "violations": len(broken),
        "broken": broken[:SHOWN],
        "violations_by_rule": Counter(line.partition(":")[0] for line in broken),
        "complete": pace.fulfilled,
        "seconds": round(time.monotonic() - started),
        "settle_seconds": campaign.settle_seconds and round(campaign.settle_seconds, 1),
        "lease_seconds": plan.lease_seconds,
        "cores": os.cpu_count(),
        "history": str(campaign.history.path),
        "recovery": campaign.recovery.figures(),
        "by_kind": dict(sorted(counts.items())),
        "s3_by_kind": {str(k): n for k, n in sorted(stage.proxy.injected.items())},
        "counted": counted,
        "ends": dict(campaign.ends),
    }


def _audit(stage: Stage) -> list[str]:
    """The system's own audit, beside the independent one; and the sweep before it (I3).

    Everybody who stored files has ended by now. What they asked of the store may still be on its
    way: a file that comes after the sweep is one that the next sweep finds.
    """
    give_up = time.monotonic() + DRAIN_SECONDS
    while not stage.proxy.idle and time.monotonic() < give_up:
        time.sleep(0.1)
    direct = {"IMAGEMILL_S3_ENDPOINT_URL": stage.seaweed.endpoint}
    command = [sys.executable, "-m", "imagemill", "sweep", "--delete"]
    aged = {"IMAGEMILL_SWEEP_AGE_SECONDS": str(stage.lease_seconds)}
    time.sleep(stage.lease_seconds + 1)
    subprocess.run(
        command,
        env={**stage.environment, **direct, **aged},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    database = Database(stage.url)
    with database.reading() as session:
        found = [f"audit {violation}" for violation in audit(session)]
    database.close()
    return found


def _check(stage: Stage, campaign: Campaign, reference: Path | None) -> dict[str, Any]:
    given = {
        "dsn": stage.dsn,
        "history": str(campaign.history.path),
        "reference": reference and str(reference),
        "bucket": {
            "endpoint": stage.seaweed.endpoint,
            "name": stage.seaweed.bucket,
            "prefix": "chaos",
            "keys": [stage.seaweed.access_key, stage.seaweed.secret_key],
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.checker"],
        input=json.dumps(given),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    checked: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return checked


class _Simulation:
    """The virtual-clock histories, told beside the campaign by a process of their own."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._log = folder / "simulation.log"
        self._process: subprocess.Popen[bytes] | None = None
        if plan.histories:
            command = [sys.executable, "-m", "tests.simulation"]
            counts = ["--histories", str(plan.histories), "--seed", str(plan.seed)]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen([*command, *counts], stdout=log)

    def result(self) -> Mapping[str, int]:
        """How many histories were told, and what they broke; all of them, however long it takes."""
        if self._process is None:
            return {"histories": 0, "violations": 0}
        self._process.wait()
        *broken, last = self._log.read_text().splitlines()
        for line in broken:
            _say(line)
        found: Mapping[str, int] = json.loads(last)
        return found

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def _arguments() -> tuple[Plan, Path, Path | None, Path | None]:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    for each in fields(Plan):
        option = f"--{each.name.replace('_', '-')}"
        parser.add_argument(option, type=type(each.default), default=each.default)
    parser.add_argument("--out", type=Path, help="folder for the raw history and the logs")
    parser.add_argument("--report", type=Path, help="the page whose table is written anew")
    parser.add_argument("--record", type=Path, help="the list of all campaigns to add this one to")
    given = vars(parser.parse_args())
    page, record = given.pop("report"), given.pop("record")
    folder = given.pop("out") or Path(tempfile.mkdtemp(prefix="imagemill-chaos-"))
    return Plan(**given), folder, page, record


def _progress(line: str) -> None:
    """On a terminal's one line; nothing where the output is kept."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{line}\033[K")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

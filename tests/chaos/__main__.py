"""`python -m tests.chaos`: one campaign. The last line is a JSON object; exit 1 if not sound."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from db.database import Database
from db.queries.audit import audit
from tests.chaos.campaign import Campaign
from tests.chaos.plan import Plan
from tests.chaos.stage import LEASE_SECONDS, Stage

SHOWN = 50


def main() -> int:
    plan, folder = _arguments()
    folder.mkdir(parents=True, exist_ok=True)
    result = run(plan, folder)
    histories = _simulate(plan)
    result["histories"] = histories.get("histories", 0)
    result["violations"] += histories.get("violations", 0)
    _print_table(plan, result)
    _say(json.dumps(result))
    return 1 if result["violations"] or not result["complete"] else 0


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """One campaign; its counts and violations. What it leaves behind is in `folder`."""
    started = time.monotonic()
    with Stage() as stage:
        campaign = Campaign(plan, stage, folder)
        try:
            settled = campaign.run(_progress)
            campaign.submit_again()
        finally:
            campaign.close()
        broken = [] if settled else ["I7: not everything was terminal in time"]
        broken += [f"I4: {message}" for message in campaign.unfenced]
        broken += _audit(stage)
        checked = _check(stage, campaign)
    broken += checked["violations"]
    for violation in broken[:SHOWN]:
        _say(violation)
    counts = campaign.counts
    return {
        "seed": plan.seed,
        "kills": campaign.kills,
        "broker_losses": counts["broker losses"],
        "pg_restarts": counts["Postgres restarts"],
        "s3_faults": counts["S3 faults"],
        "s3_fault_kinds": len(stage.proxy.injected),
        "s3_requests": stage.proxy.requests.total(),
        "freezes": counts["freezes"],
        "images": checked["counted"].get("requested", 0),
        "violations": len(broken),
        "complete": campaign.fulfilled,
        "seconds": round(time.monotonic() - started),
        "history": str(campaign.history.path),
        "by_kind": dict(sorted(counts.items())),
        "s3_by_kind": {str(k): n for k, n in sorted(stage.proxy.injected.items())},
        "counted": checked["counted"],
        "ends": dict(campaign.ends),
    }


def _audit(stage: Stage) -> list[str]:
    """The system's own audit, beside the independent one; and the sweep before it (I3)."""
    direct = {"IMAGEMILL_S3_ENDPOINT_URL": stage.seaweed.endpoint}
    command = [sys.executable, "-m", "scheduler_jobs.cli", "sweep", "--delete"]
    aged = {"IMAGEMILL_SWEEP_AGE_SECONDS": str(LEASE_SECONDS)}
    time.sleep(LEASE_SECONDS + 1)
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


def _check(stage: Stage, campaign: Campaign) -> dict[str, Any]:
    given = {
        "dsn": stage.dsn,
        "history": str(campaign.history.path),
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


def _simulate(plan: Plan) -> Mapping[str, Any]:
    """The virtual-clock histories, in a process of their own."""
    if not plan.histories:
        return {}
    command = [sys.executable, "-m", "tests.simulation"]
    counts = ["--histories", str(plan.histories), "--seed", str(plan.seed)]
    done = subprocess.run([*command, *counts], stdout=subprocess.PIPE, text=True, check=False)
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _print_table(plan: Plan, result: Mapping[str, Any]) -> None:
    lines = {"images requested": result["images"], **result["by_kind"]}
    lines |= {f"S3: {kind}": count for kind, count in result["s3_by_kind"].items()}
    lines |= {"stateful histories": result["histories"], "violations": result["violations"]}
    width = max(map(len, lines))
    for name, count in lines.items():
        _say(f"| {name:<{width}} | {count:>7} |")
    if not result["complete"]:
        _say(f"not everything was broken as often as planned in {plan.minutes:g} minutes")


def _arguments() -> tuple[Plan, Path]:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    for each in fields(Plan):
        option = f"--{each.name.replace('_', '-')}"
        parser.add_argument(option, type=type(each.default), default=each.default)
    parser.add_argument("--out", type=Path, help="folder for the raw history and the logs")
    given = vars(parser.parse_args())
    folder = given.pop("out") or Path(tempfile.mkdtemp(prefix="imagemill-chaos-"))
    return Plan(**given), folder


def _progress(line: str) -> None:
    """On a terminal's one line; nothing where the output is kept."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{line}\033[K")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

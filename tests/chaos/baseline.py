"""The same faults for a plain Celery implementation, to see what they do to one.

What a careful tutorial builds: a task an image, `acks_late`, `reject_on_worker_lost`, prefetch 1,
retries with backoff, a PUT to S3 and an INSERT per image. `python -m tests.chaos.baseline` runs
the application under a campaign's faults, in a campaign's proportions and at its pace, waits until
nothing moves any more, and counts what was lost and what was done twice. `… worker` is Celery's
own worker.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import boto3
import psycopg
from botocore.config import Config
from celery import Celery
from redis.exceptions import RedisError

from tests.chaos.pace import Pace
from tests.chaos.plan import Plan
from tests.chaos.report import BASELINE, COLUMNS, SPARED, refill, table
from tests.chaos.stage import Stage
from tests.helpers.servers.s3_proxy import FaultPlan
from tests.integration.workers import children

QUIET_SECONDS = 25
"""When nothing was done for so long, and no message waits, nothing more will come."""

VISIBILITY_SECONDS = 10
"""How long until Redis hands out a task again that nobody acknowledged; an hour by default, so
this is kinder to Celery than its own setting."""

FROZEN_SECONDS = VISIBILITY_SECONDS + 2

FIRST_DONE = 10
"""Images that are done before anything is broken: the worker is up."""

SUBMIT_SECONDS = 0.3
"""From one image to the next, as long as things are broken: so many as a campaign asks for."""

PLAN = Plan(
    kills=200,
    broker_losses=20,
    pg_restarts=10,
    store_deaths=0,
    stalls=0,
    slow_disks=0,
    clock_jumps=0,
    s3_faults=2000,
    freezes=40,
    real_engine_kills=0,
    real_engine_freezes=0,
    histories=0,
    poison=0,
)
"""A fifth of a release's campaign."""

_FREEZERS = 2

app = Celery("baseline", broker=os.environ.get("BASELINE_BROKER"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": VISIBILITY_SECONDS},
)


@app.task(
    name="baseline.render",
    autoretry_for=(Exception,),
    retry_backoff=True,
    retry_backoff_max=5,
    max_retries=10,
)
def render(number: int) -> None:
    """One image: pixels, a file, a row."""
    time.sleep(0.03)
    client = boto3.Session().client(
        "s3",
        endpoint_url=os.environ["BASELINE_S3"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, read_timeout=5),
    )
    pixels = random.Random(number).randbytes(12_000)
    client.put_object(Bucket="pictures", Key=f"baseline/{number}", Body=pixels)
    with psycopg.connect(os.environ["BASELINE_DSN"]) as connection:
        connection.execute("INSERT INTO done (number) VALUES (%s)", [number])


class Baseline:
    """The application on a stage, while it is broken."""

    def __init__(self, plan: Plan, stage: Stage, folder: Path) -> None:
        self._plan = plan
        self._stage = stage
        self._dice = random.Random(plan.seed)
        self.pace = Pace(plan.wanted(), self._dice)
        self.submitted = 0
        self._environment = stage.environment | {
            "BASELINE_BROKER": stage.valkey.url,
            "BASELINE_S3": stage.proxy.endpoint,
            "BASELINE_DSN": stage.dsn,
        }
        self._log = (folder / "baseline.log").open("ab")
        self._over = threading.Event()
        self._frozen: set[int] = set()
        app.conf.broker_url = stage.valkey.url

    def run(self) -> Counter[int]:
        """Break it as often as planned, and wait; how often each image was done."""
        self._stage.query("CREATE TABLE done (number int, at timestamptz DEFAULT now())")
        self._worker = self._start()
        threading.Thread(target=self._keep_alive, daemon=True).start()
        producer = threading.Thread(target=self._submit)
        producer.start()
        while self._counted().total() < FIRST_DONE:
            time.sleep(0.5)
        self._stage.proxy.plan = self._plan.s3_plan()
        loops: list[Callable[[], None]] = [self._kill, self._lose_broker, self._restart_postgres]
        loops += [self._freeze] * _FREEZERS
        threads = [threading.Thread(target=self._looped, args=[loop]) for loop in loops]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + self._plan.minutes * 60
        while not self.pace.fulfilled and time.monotonic() < ends:
            self.pace.stopped.wait(1)
            self.pace.counts["S3 faults"] = sum(self._stage.proxy.injected.values())
        self.pace.stopped.set()
        for thread in [*threads, producer]:
            thread.join()
        self._stage.proxy.plan = FaultPlan()
        return self._until_quiet()

    def close(self) -> None:
        self._over.set()
        self._worker.kill()
        self._worker.wait()
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.chaos.baseline", "worker", str(self._plan.workers)]
        return subprocess.Popen(
            command, env=self._environment, stdout=self._log, stderr=subprocess.STDOUT
        )

    def _keep_alive(self) -> None:
        while not self._over.wait(0.2):
            if self._worker.poll() is not None:
                self._worker = self._start()

    def _submit(self) -> None:
        """Task after task, while things break, so that the broker never holds all of them."""
        while not self.pace.stopped.wait(SUBMIT_SECONDS):
            while True:
                with suppress(Exception):
                    render.delay(self.submitted)
                    break
                time.sleep(0.1)
            self.submitted += 1

    # What is broken ------------------------------------------------------------------------

    def _looped(self, loop: Callable[[], None]) -> None:
        while not self.pace.stopped.is_set():
            with suppress(psycopg.Error, RedisError, OSError, RuntimeError):
                loop()

    def _kill(self) -> None:
        """A child, for that is what renders; one time in ten its parent."""
        if self.pace.over("kills", 0.1, 0.6):
            return
        parent = self._worker.pid
        victims = [child for child in children(parent) if child not in self._frozen]
        if self._dice.random() < 0.1:
            victims = [parent]
        if victims:
            os.kill(self._dice.choice(victims), signal.SIGKILL)
            self.pace.counts["kill worker"] += 1

    def _lose_broker(self) -> None:
        if self.pace.over("broker losses", 0.5, 2.5):
            return
        if self._dice.random() < 0.5:
            self._stage.flush_broker()
        else:
            self._stage.kill_broker()
            self.pace.counts["kill broker"] += 1
        self.pace.counts["broker losses"] += 1

    def _restart_postgres(self) -> None:
        if self.pace.over("Postgres restarts", 2, 5):
            return
        if self._dice.random() < 0.5:
            self._stage.postgres.restart()
        else:
            self._stage.kill_postgres()
            self.pace.counts["kill database"] += 1
        self.pace.counts["Postgres restarts"] += 1

    def _freeze(self) -> None:
        """Stop a child for longer than the broker waits for it, then let it go on."""
        if self.pace.over("freezes", 0.05, 0.2):
            return
        chosen = [child for child in children(self._worker.pid) if child not in self._frozen]
        if not chosen:
            return
        child = self._dice.choice(chosen)
        self._frozen.add(child)
        try:
            os.kill(child, signal.SIGSTOP)
            time.sleep(FROZEN_SECONDS)
            os.kill(child, signal.SIGCONT)
            self.pace.counts["freezes"] += 1
        finally:
            self._frozen.discard(child)

    # What came of it -----------------------------------------------------------------------

    def _until_quiet(self) -> Counter[int]:
        """How often each image was done, once nothing has moved for a while."""
        done: Counter[int] = Counter()
        moved = time.monotonic()
        while time.monotonic() - moved < QUIET_SECONDS and len(done) < self.submitted:
            time.sleep(1)
            now = self._counted()
            if now != done:
                done, moved = now, time.monotonic()
        time.sleep(VISIBILITY_SECONDS)
        return self._counted()

    def _counted(self) -> Counter[int]:
        while True:
            with suppress(psycopg.Error):  # it has just been restarted
                found = self._stage.query("SELECT number FROM done")
                return Counter(number for (number,) in found)
            time.sleep(0.1)


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """One campaign; what was lost and doubled, in the words of `tests.chaos`."""
    started = time.monotonic()
    with Stage() as stage:
        baseline = Baseline(plan, stage, folder)
        try:
            done = baseline.run()
        finally:
            baseline.close()
    pace = baseline.pace
    return {
        "seed": plan.seed,
        "kills": pace.kills,
        "broker_losses": pace.counts["broker losses"],
        "pg_restarts": pace.counts["Postgres restarts"],
        "s3_faults": sum(stage.proxy.injected.values()),
        "s3_fault_kinds": len(stage.proxy.injected),
        "s3_requests": stage.proxy.requests.total(),
        "freezes": pace.counts["freezes"],
        "images": baseline.submitted,
        "lost": baseline.submitted - len(done),
        "doubled": sum(count > 1 for count in done.values()),
        "complete": pace.fulfilled,
        "seconds": round(time.monotonic() - started),
        "by_kind": dict(sorted(pace.counts.items())),
        "s3_by_kind": {str(k): n for k, n in sorted(stage.proxy.injected.items())},
    }


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        options = ["-c", sys.argv[2], "--loglevel=WARNING", "--without-gossip"]
        app.worker_main(["worker", *options])
        return
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.baseline")
    names = ("kills", "broker_losses", "pg_restarts", "s3_faults", "freezes", "seed", "minutes")
    for each in fields(PLAN):
        if each.name in names:
            default = getattr(PLAN, each.name)
            option = f"--{each.name.replace('_', '-')}"
            parser.add_argument(option, type=type(default), default=default)
    parser.add_argument("--out", type=Path, default=Path("out/chaos"), help="folder for the counts")
    parser.add_argument("--report", type=Path, help="the page whose table is written anew")
    given = vars(parser.parse_args())
    folder, page = given.pop("out"), given.pop("report")
    folder.mkdir(parents=True, exist_ok=True)
    plan = replace(PLAN, **given)
    result = run(plan, folder)
    file = BASELINE if plan.broker_losses else SPARED
    (folder / file).write_text(json.dumps(result, indent=1))
    sys.stdout.write(f"{table({COLUMNS[file]: result})}\n{json.dumps(result)}\n")
    if page is not None:
        refill(page, folder)


if __name__ == "__main__":
    main()

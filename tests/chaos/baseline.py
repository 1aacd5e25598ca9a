"""The same faults for a plain Celery implementation, to see what they do to one.

What a careful tutorial builds: a task an image, `acks_late`, `reject_on_worker_lost`, prefetch 1,
retries with backoff, a PUT to S3 and an INSERT per image. `python -m tests.chaos.baseline` runs
the application under kills, broker losses, Postgres restarts and S3 faults, waits until nothing
moves any more, and counts what was lost and what was done twice. `… worker` is Celery's own.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import boto3
import psycopg
from botocore.config import Config
from celery import Celery

from tests.chaos.stage import Stage
from tests.integration.workers import children
from tests.servers.s3_proxy import Fault, FaultPlan

QUIET_SECONDS = 25
"""When nothing was done for so long, and no message waits, nothing more will come."""

VISIBILITY_SECONDS = 10
"""How long until Redis hands out a task again that nobody acknowledged; an hour by default, so
this is kinder to Celery than its own setting."""

FIRST_DONE = 10
"""Images that are done before anything is broken: the worker is up."""

SUBMIT_SECONDS = 0.08

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


def run(*, images: int, kills: int, broker_losses: int, pg_restarts: int, seed: int) -> dict:
    """One campaign; what was lost and doubled."""
    dice = random.Random(seed)
    with Stage() as stage, tempfile.TemporaryDirectory() as folder:
        stage.proxy.plan = FaultPlan(
            rates=dict.fromkeys((f for f in Fault if f is not Fault.FORBIDDEN_403), 0.02), seed=seed
        )
        stage.query("CREATE TABLE done (number int, at timestamptz DEFAULT now())")
        environment = stage.environment | {
            "BASELINE_BROKER": stage.valkey.url,
            "BASELINE_S3": stage.proxy.endpoint,
            "BASELINE_DSN": stage.dsn,
        }
        app.conf.broker_url = stage.valkey.url
        log = (Path(folder) / "worker.log").open("ab")
        worker = [_worker(environment, log)]
        stop = threading.Event()

        def keep_alive() -> None:
            while not stop.wait(0.2):
                if worker[0].poll() is not None:
                    worker[0] = _worker(environment, log)

        threading.Thread(target=keep_alive, daemon=True).start()
        producer = threading.Thread(target=_submit, args=[images])
        producer.start()
        while _counted(stage).total() < FIRST_DONE:
            time.sleep(0.5)
        broken = _break(stage, worker, dice, kills, broker_losses, pg_restarts)
        stage.proxy.plan = FaultPlan()
        producer.join()
        done = _until_quiet(stage, images)
        stop.set()
        worker[0].kill()
        worker[0].wait()
    lost = [number for number in range(images) if number not in done]
    return {
        "images": images,
        **broken,
        "s3_faults": sum(stage.proxy.injected.values()),
        "seed": seed,
        "lost": len(lost),
        "doubled": sum(count > 1 for count in done.values()),
        "rendered": done.total(),
    }


def _worker(environment: dict[str, str], log: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.chaos.baseline", "worker"]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _submit(images: int) -> None:
    """Task after task, while things break, so that the broker never holds all of them."""
    for number in range(images):
        time.sleep(SUBMIT_SECONDS)
        while True:
            with suppress(Exception):
                render.delay(number)
                break
            time.sleep(0.1)


def _break(
    stage: Stage,
    worker: list[subprocess.Popen[bytes]],
    dice: random.Random,
    kills: int,
    broker_losses: int,
    pg_restarts: int,
) -> dict[str, int]:
    """Kill children and parents, lose the broker's data, restart the database; in random order."""
    faults = ["kill"] * kills + ["broker"] * broker_losses + ["database"] * pg_restarts
    dice.shuffle(faults)
    counts: Counter[str] = Counter()
    for fault in faults:
        time.sleep(dice.uniform(0.2, 0.8))
        if fault == "broker":
            stage.flush_broker() if dice.random() < 0.5 else stage.kill_broker()
        elif fault == "database":
            stage.postgres.restart()
        else:
            parent = worker[0].pid
            victims = children(parent)
            with suppress(ProcessLookupError):
                os.kill(dice.choice(victims) if victims else parent, signal.SIGKILL)
        counts[fault] += 1
    return {
        "kills": counts["kill"],
        "broker_losses": counts["broker"],
        "pg_restarts": counts["database"],
    }


def _until_quiet(stage: Stage, images: int) -> Counter[int]:
    """How often each image was done, once nothing has moved for a while."""
    done: Counter[int] = Counter()
    moved = time.monotonic()
    while time.monotonic() - moved < QUIET_SECONDS and len(done) < images:
        time.sleep(1)
        now = _counted(stage)
        if now != done:
            done, moved = now, time.monotonic()
    time.sleep(VISIBILITY_SECONDS)
    return _counted(stage)


def _counted(stage: Stage) -> Counter[int]:
    while True:
        with suppress(psycopg.Error):  # it has just been restarted
            return Counter(number for (number,) in stage.query("SELECT number FROM done"))
        time.sleep(0.1)


def main() -> None:
    if sys.argv[1:] == ["worker"]:
        app.worker_main(["worker", "-c", "3", "--loglevel=WARNING", "--without-gossip"])
        return
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.baseline")
    for name, default in (("images", 600), ("kills", 40), ("broker_losses", 4)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--pg-restarts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    sys.stdout.write(json.dumps(run(**vars(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()

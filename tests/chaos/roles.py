"""What the processes of a campaign do: production's code, with short pauses; most workers draw
with an engine without torch, renderers with the real one.

Each function is a process's whole life, called in a fresh fork (see `zygote`).
"""

import hashlib
import json
import logging
import queue
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import botocore.retries.standard
import kombu.exceptions
from redis.exceptions import RedisError
from sqlalchemy import select

import imagemill.db.storage.s3
import imagemill.scheduler_jobs.dispatcher
import imagemill.scheduler_jobs.submit.planning.planned_rows
import imagemill.worker.process.child
import imagemill.worker.process.start_method
import imagemill.worker.shifts.recorder
from imagemill.db.broker.wake_ups import make_app, queue_name
from imagemill.db.database import Database
from imagemill.db.errors import ServiceError
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.tables import Environment, Object
from imagemill.scheduler_jobs.dispatcher import Dispatcher
from imagemill.scheduler_jobs.submit.submission import SubmissionRequest, submit
from imagemill.worker.files.encoder import read_record
from imagemill.worker.process.child import Child, open_child, work_shift
from imagemill.worker.process.presence import Presence
from tests.chaos.history import History
from tests.helpers.backlog import ready_images
from tests.helpers.fake_engine import FakeShelf

log = logging.getLogger(__name__)

STEP_SECONDS = 0.004
ROUND_SECONDS = 0.3
AFTER_FAULT_SECONDS = 0.1
PAUSE_SECONDS = 0.02
CHUNK_ROWS = 8

_BROKER_AWAY = (kombu.exceptions.OperationalError, RedisError, OSError)


def prepare_worker() -> None:
    """Give this process's `Child` the fake shelf, and pauses that fit thousands of faults."""
    imagemill.worker.process.child.open_child = open_fake_child
    imagemill.worker.process.child.load_early = lambda: None
    imagemill.worker.process.start_method.HEAVY_MODULE = "imagemill.worker.shifts.shift"
    shorten_pauses()


def shorten_pauses() -> None:
    """Wait for the store and after a fault for moments only."""
    imagemill.worker.process.child._AFTER_FAULT_SECONDS = AFTER_FAULT_SECONDS
    imagemill.worker.shifts.recorder._FIRST_PAUSE_SECONDS = PAUSE_SECONDS
    imagemill.worker.shifts.recorder._LONGEST_PAUSE_SECONDS = 10 * PAUSE_SECONDS
    imagemill.db.storage.s3._back_off = lambda attempt: time.sleep(PAUSE_SECONDS)
    botocore.retries.standard.ExponentialBackoff.delay_amount = lambda *_: PAUSE_SECONDS


def open_fake_child(settings: Settings, presence: Presence) -> Child:
    shelf = partial(FakeShelf, step_seconds=STEP_SECONDS)
    return Child(settings, open_shelf=lambda _: shelf(), device="fake", presence=presence)


def run_worker(_: dict[str, Any], history: History) -> None:
    prepare_worker()
    take_tokens()


def run_renderer(_: dict[str, Any], history: History) -> None:
    """A worker with the real engine."""
    shorten_pauses()
    take_tokens()


def take_tokens() -> None:
    """Take tokens and work shifts, as a Celery child does; ack early, like production."""
    settings = Settings.load()
    while True:
        try:
            with make_app(settings).connection_for_read() as connection:
                tokens = connection.SimpleQueue(queue_name(settings.route))
                while True:
                    try:
                        message = tokens.get(timeout=1)
                    except queue.Empty:
                        continue
                    message.ack()
                    _, values, _ = message.payload
                    log.info("%s", work_shift(values["route"]))
        except _BROKER_AWAY as error:
            log.info("waiting for the broker: %s", error)
            time.sleep(0.1)


def run_producer(order: dict[str, Any], history: History) -> None:
    """Submit one manifest; ends with it."""
    imagemill.scheduler_jobs.submit.planning.planned_rows.CHUNK_ROWS = CHUNK_ROWS
    settings = Settings.load()
    database = Database.from_settings(settings)
    request = SubmissionRequest(
        manifest=order["manifest"], name=order["name"], route=order["route"]
    )
    while True:
        try:
            submission = submit(request, settings=settings, database=database)
        except ServiceError as error:
            log.info("trying again: %s", error)
            continue
        history.add("submitted", name=order["name"], job=submission.job_id)
        return


def run_dispatcher(_: dict[str, Any], history: History) -> None:
    imagemill.scheduler_jobs.dispatcher.ROUND_SECONDS = ROUND_SECONDS
    settings = Settings.load()
    Dispatcher(Database.from_settings(settings), settings).run_forever(threading.Event())


def run_reference(order: dict[str, Any], history: History) -> None:
    """Render manifests with the real engine in a database and a folder of their own, where nobody
    disturbs, and write down what their pictures and environments are."""
    settings = Settings.load()
    database = Database.from_settings(settings)
    migrate(database)
    for manifest in order["manifests"]:
        request = SubmissionRequest(manifest=manifest, name=manifest, route=settings.route)
        submit(request, settings=settings, database=database)
    child = open_child(settings, Presence(settings))
    while database.run(ready_images):
        child.work(settings.route)
    storage = open_storage(settings)
    with database.reading() as session:
        keys = session.scalars(select(Object.object_key)).all()
        environments = session.scalars(select(Environment.fingerprint)).all()
    pixels: dict[str, str] = {}
    for key in keys:
        record, picture = read_record(storage.get(key))
        pixels[record.spec.pixel_key()] = hashlib.sha256(picture.tobytes()).hexdigest()
    reference = {"pixels": pixels, "environments": environments}
    Path(order["output"]).write_text(json.dumps(reference))


ROLES = {
    "worker": run_worker,
    "renderer": run_renderer,
    "producer": run_producer,
    "dispatcher": run_dispatcher,
    "reference": run_reference,
}

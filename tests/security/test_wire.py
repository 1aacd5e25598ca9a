"""Attacks through the broker, by somebody who can publish anything into a worker's queue.

A real worker on a real Valkey. After every message it must be there, must have run nothing, and
must still take an honest token.
"""

import json
import os
import pickle
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis
from sqlalchemy import func, select

from imagemill.db.broker.wake_ups import SHIFT_TASK, Tokens, make_app, queue_name
from imagemill.db.database import Database
from imagemill.db.settings import Settings
from imagemill.db.tables import Shift
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from tests.helpers.servers.valkey import Valkey
from tests.helpers.template import migrate_quickly

QUEUE = queue_name("default")
SECONDS = 180.0
_COUNT = select(func.count()).select_from(Shift)


class Victim:
    """A worker process, its log, and the means to hurt it."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        self.marker = folder / "executed"
        self.log = folder / "worker.log"
        self.settings = Settings.load(
            broker_url=broker_url,
            database_url=f"sqlite:///{folder / 'imagemill.sqlite3'}",
            storage_url=str(folder / "objects"),
            device="cpu",
            children=1,
        )
        database = Database.from_settings(self.settings)
        migrate_quickly(database)
        database.close()
        (folder / "objects").mkdir()
        self.app: Celery = make_app(self.settings)
        self.redis = Redis.from_url(broker_url)
        self.process = TetheredProcess(
            [sys.executable, "-m", "imagemill.worker"],
            environment={**os.environ, **self.settings.environment()},
            log=self.log,
        )

    def publish(self, body: object, *, serializer: str = "json", **properties: object) -> None:
        with self.app.connection_for_write() as connection:
            producer = connection.Producer(serializer=serializer)
            producer.publish(body, routing_key=QUEUE, exchange="", **properties)

    def task(self, name: str, args: object = (), kwargs: object = None, **headers: object) -> None:
        """A message of Celery's protocol, whatever is in it."""
        identity = str(uuid.uuid4())
        own = {"lang": "py", "task": name, "id": identity, "root_id": identity, **headers}
        embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        embedded |= {key: headers.pop(key) for key in list(headers) if key in embedded}
        self.publish([args, kwargs or {}, embedded], headers=own, correlation_id=identity)

    def said(self, count: int, words: str) -> bool:
        return self.log.read_text("utf-8").count(words) >= count

    def takes_an_honest_token(self) -> None:
        """An honest token is answered, so everything before it has been dealt with."""
        answers = self.log.read_text("utf-8").count("succeeded in")
        tokens = Tokens(self.settings)
        tokens.publish("default")
        tokens.close()
        self.wait(lambda: self.said(answers + 1, "succeeded in") and self.idle())
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        assert not self.marker.exists()

    def idle(self) -> bool:
        return not self.redis.llen(QUEUE)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)


@pytest.fixture(scope="module")
def victim(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    victim = Victim(tmp_path_factory.mktemp("victim"), valkey_server.fresh_url())
    yield victim
    victim.process.stop(seconds=30)
    with suppress(FileNotFoundError):
        victim.log.unlink()


class Exploit:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self._marker}",)


def test_a_pickle_is_not_read(victim: Victim) -> None:
    bomb = pickle.dumps(Exploit(victim.marker))
    for kind in ("application/x-python-serialize", "application/x-python", "pickle"):
        victim.publish(
            bomb,
            serializer=None,
            content_type=kind,
            content_encoding="binary",
            headers={"task": SHIFT_TASK, "id": str(uuid.uuid4()), "lang": "py"},
        )
    victim.takes_an_honest_token()
    assert victim.said(3, "it is not JSON")


def test_no_other_serialisation_is_read(victim: Victim) -> None:
    text = f"!!python/object/apply:os.system ['touch {victim.marker}']"
    for kind in ("application/x-yaml", "application/x-msgpack", "application/data", "text/plain"):
        victim.publish(
            text.encode(),
            serializer=None,
            content_type=kind,
            content_encoding="utf-8",
            headers={"task": SHIFT_TASK, "id": str(uuid.uuid4()), "lang": "py"},
        )
    victim.takes_an_honest_token()
    assert victim.said(3 + 4, "it is not JSON")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "imagemill.worker.process.child.work_shift",
        "imagemill.render",
        "celery.accumulate",
        "",
        "\n",
    ],
)
def test_a_task_that_is_not_ours_is_not_run(victim: Victim, name: str) -> None:
    victim.task(name, [f"touch {victim.marker}"])
    victim.takes_an_honest_token()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {"route": "default", "settings": {"device": "cuda"}, "__class__": "x"}),
        ([], {}),
        (["a", "b", "c"], {}),
        ([], {"route": "../../../../etc/passwd"}),
        ([], {"route": "'; DROP TABLE images; --"}),
        ([], {"route": ["default"]}),
        ([], {"route": {"$ne": None}}),
        ([], {"route": None}),
        ([], {"route": "80gb"}),
        ([], {"route": "x" * 5_000_000}),
        ([], {"route": "default\n2031-01-01 INFO worker: forged"}),
        ("not a list", "not a dict"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_odd_arguments_are_refused(victim: Victim, args: object, kwargs: object) -> None:
    victim.task(SHIFT_TASK, args, kwargs)
    victim.takes_an_honest_token()
    with Database.from_settings(victim.settings).reading() as session:
        assert session.execute(_COUNT).scalar_one() == 0


def test_messages_embedded_in_a_message_run_nothing(victim: Victim) -> None:
    step = {
        "task": "os.system",
        "args": [f"touch {victim.marker}"],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": True,
    }
    victim.task(SHIFT_TASK, [], {"route": "default"}, callbacks=[step], chain=[step])
    victim.takes_an_honest_token()


@pytest.mark.parametrize(
    "envelope",
    [b"not json", b"{}", b"[]", b"null", b'{"body": 5}', b"\x80\x04K\x01.", b"[" * 20_000],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_envelope_stops_nobody(victim: Victim, envelope: bytes) -> None:
    victim.redis.lpush(QUEUE, envelope)
    victim.takes_an_honest_token()


def test_no_message_forged_a_line_of_the_log(victim: Victim) -> None:
    victim.task("forged\n2031-01-01T00:00:00+00:00 INFO    1 worker: forged", ["\x1b[2J"])
    victim.takes_an_honest_token()
    lines = victim.log.read_text("utf-8").splitlines()
    assert not any(line.startswith("2031") for line in lines)
    assert all(line.isprintable() for line in lines)


def test_messages_of_ours_are_json_with_a_route_and_nothing_else(victim: Victim) -> None:
    queue = f"{QUEUE}-unread"
    settings = victim.settings.model_copy(update={"route": "default-unread"})
    tokens = Tokens(settings)
    tokens.publish("default-unread")
    tokens.close()
    envelope = json.loads(victim.redis.lpop(queue))
    assert envelope["content-type"] == "application/json"
    assert envelope["headers"]["kwargsrepr"] == "{'route': 'default-unread'}"

"""The dispatcher's rounds: what they move, what they publish, what they wait for."""

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from imagemill.db.broker.wake_ups import SCORE_TASK, SHIFT_TASK
from imagemill.db.database import PATIENCE_SECONDS, Database
from imagemill.db.errors import BrokerError, DatabaseError
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work import score_work
from imagemill.db.settings import Settings
from imagemill.db.states import JobState
from imagemill.db.tables import Tally
from imagemill.scheduler_jobs import dispatcher as module
from imagemill.scheduler_jobs.dispatcher import MIN_TOKENS, TOKENS_PER_WORKER, Dispatcher
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from imagemill.scheduler_jobs.upload_retention import UploadRetention
from tests.helpers.mill import Mill


class Queues:
    """In the place of `Tokens`: counts the tokens of each route."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.away = False
        self.closed = False

    def publish(self, route: str, count: int = 1, *, task: str = SHIFT_TASK) -> None:
        self._answer()
        place = _place(route, task)
        self.held[place] = self.held.get(place, 0) + count

    def waiting(self, route: str, *, task: str = SHIFT_TASK) -> int:
        self._answer()
        return self.held.get(_place(route, task), 0)

    def close(self) -> None:
        self.closed = True

    def _answer(self) -> None:
        if self.away:
            raise BrokerError("the broker is away")


def _place(route: str, task: str) -> str:
    """The route, for shifts that render."""
    return route if task == SHIFT_TASK else f"{task} {route}"


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Queues:
    queues = Queues()
    monkeypatch.setattr(module, "Tokens", lambda settings: queues)
    return queues


@pytest.fixture
def dispatcher(mill: Mill, queues: Queues) -> Iterator[Dispatcher]:
    yield Dispatcher(mill.database, Settings.load(retry_seconds=0))
    assert mill.audit() == []


def test_wakes_workers_where_work_is_ready(
    mill: Mill, dispatcher: Dispatcher, queues: Queues
) -> None:
    mill.load("job", [f"p{n}" for n in range(9)])
    mill.load("far", [f"p{n}" for n in range(9)], route="80gb")
    assert dispatcher.run_once().published == 2 * MIN_TOKENS
    assert queues.held == {"default": MIN_TOKENS, "80gb": MIN_TOKENS}


def test_every_idle_worker_is_woken_where_one_of_them_has_the_labels(
    mill: Mill, dispatcher: Dispatcher, queues: Queues
) -> None:
    mill.load("needy", ["a"], needs={"gpu": ""})
    for number in range(8):
        mill.worker(f"plain@host:{number}")
    assert dispatcher.run_once().published == 1, "one image, and nobody has the labels"
    fit = mill.worker("fit@host:9", labels={"gpu": "h100"})
    dispatcher.run_once()
    assert queues.held == {"default": 10}, "with the mill's own worker"
    queues.held.clear()
    mill.claim(mill.shift(worker_id=fit))
    assert dispatcher.run_once().published == 0


def test_publishes_no_more_while_enough_wait(
    mill: Mill, dispatcher: Dispatcher, queues: Queues
) -> None:
    mill.load("job", [f"p{n}" for n in range(9)])
    dispatcher.run_once()
    assert dispatcher.run_once().published == 0
    assert queues.held == {"default": MIN_TOKENS}


def test_is_quiet_until_the_first_retry_is_due(mill: Mill, queues: Queues) -> None:
    """Woken each second, every worker would find nothing to claim, each second."""
    mill.load("job", ["p0", "p1"])
    shift = mill.shift()
    for image in mill.claim(shift):
        mill.fail(shift, image.id)
    mill.end(shift)
    dispatcher = Dispatcher(mill.database, Settings.load(retry_seconds=30))
    assert [dispatcher.run_once().published for _ in range(3)] == [0, 0, 0]
    mill.wait_out()
    assert dispatcher.run_once().published == MIN_TOKENS
    assert mill.audit() == []


def test_publishes_again_what_the_broker_lost(
    mill: Mill, dispatcher: Dispatcher, queues: Queues
) -> None:
    mill.load("job", [f"p{n}" for n in range(9)])
    dispatcher.run_once()
    queues.held.clear()
    assert dispatcher.run_once().published == MIN_TOKENS


def test_a_few_tokens_for_every_worker_and_never_more_than_images(
    mill: Mill, dispatcher: Dispatcher, queues: Queues
) -> None:
    mill.load("job", [f"p{n}" for n in range(100)])
    for _ in range(3):
        mill.shift()
    dispatcher.run_once()
    assert queues.held == {"default": max(MIN_TOKENS, TOKENS_PER_WORKER)}, (
        "one worker, three shifts"
    )
    mill.cancel(1)
    queues.held.clear()
    mill.load("small", ["one"])
    dispatcher.run_once()
    assert queues.held == {"default": 1}


def test_nothing_is_published_for_what_nobody_may_claim(
    mill: Mill, dispatcher: Dispatcher, queues: Queues
) -> None:
    mill.load("loading", ["a"], opened=False)
    mill.pause(mill.load("paused", ["a"]))
    assert dispatcher.run_once().published == 0


def test_rescues_what_dead_shifts_held(mill: Mill, dispatcher: Dispatcher) -> None:
    job = mill.load("job", ["a", "b"])
    shift = mill.shift()
    mill.claim(shift)
    mill.expire(shift)
    done = dispatcher.run_once()
    assert done.rescued == 2
    assert mill.counts(job) == Counts(ready=2)
    assert done.published > 0, "the rescue's images need a token in the same round"


def test_finishes_jobs_and_cancels_stragglers(mill: Mill, dispatcher: Dispatcher) -> None:
    finished = mill.load("finished", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    cancelled = mill.load("cancelled", ["b"])
    [held] = mill.claim(shift, limit=1)
    assert held.job_id == cancelled
    mill.cancel(cancelled)
    mill.end(shift)
    done = dispatcher.run_once()
    assert done.finished == 1
    assert mill.job(finished).state == JobState.FINISHED
    assert mill.counts(cancelled) == Counts(cancelled=1)


def test_folds_the_tallies(mill: Mill, dispatcher: Dispatcher) -> None:
    job = mill.load("job", [f"p{n}" for n in range(30)])
    shift = mill.shift()
    for _ in range(10):
        mill.complete(shift, mill.claim(shift, limit=3))
    assert dispatcher.run_once().folded > 0
    assert mill.counts(job) == Counts(done=30)
    with mill.database.reading() as session:
        assert len(session.scalars(select(Tally)).all()) < 10


def test_a_broker_that_is_away_is_said_once_and_waited_for(
    mill: Mill, dispatcher: Dispatcher, queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger=module.__name__)
    job = mill.load("job", ["a"])
    shift = mill.shift()
    mill.claim(shift)
    mill.expire(shift)
    queues.away = True
    assert dispatcher.run_once().rescued == 1, "the rescue must not depend on the broker"
    dispatcher.run_once()
    queues.away = False
    assert dispatcher.run_once().published == 1
    said = [record.message for record in caplog.records if "broker" in record.message]
    assert said == ["waiting for the broker: the broker is away", "the broker is back"]
    assert mill.counts(job) == Counts(ready=1)


def test_rounds_go_on_through_an_outage_of_the_database(
    mill: Mill, dispatcher: Dispatcher, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill.load("job", ["a", "b"])
    monkeypatch.setattr(module, "ROUND_SECONDS", 0.01)
    rounds: list[int] = []
    run_once = dispatcher.run_once

    def sometimes():
        rounds.append(1)
        if len(rounds) < 3:
            raise DatabaseError("restarting")
        return run_once()

    monkeypatch.setattr(dispatcher, "run_once", sometimes)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run_forever, args=[stop])
    thread.start()
    deadline = time.monotonic() + 120
    while not queues.held and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join(120)
    assert queues.held == {"default": 2}
    assert queues.closed


def test_stops_at_once_while_it_waits_for_the_database(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    database = Database("postgresql://nobody@127.0.0.1:1/away")
    dispatcher = Dispatcher(database, Settings.load())
    thread = threading.Thread(target=dispatcher.run_forever, args=[stop], daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS / 2
    while "waiting for the database" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    asked = time.monotonic()
    stop.set()
    thread.join()
    assert time.monotonic() - asked < PATIENCE_SECONDS / 2
    assert queues.closed


def test_says_that_it_starts_what_it_does_and_that_it_stops(
    mill: Mill,
    dispatcher: Dispatcher,
    queues: Queues,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", logger=module.__name__)
    mill.load("over", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    mill.load("job", ["b", "c", "d"])
    held = mill.shift()
    mill.claim(held, limit=2)
    mill.expire(held)
    stop = threading.Event()
    rounds: list[bool] = []
    for waits_by_it_as_well in (Notifier, UploadRetention):
        monkeypatch.setattr(waits_by_it_as_well, "run_until", lambda self, stop: None)
    monkeypatch.setattr(stop, "wait", lambda seconds: rounds.append(True))
    monkeypatch.setattr(stop, "is_set", lambda: len(rounds) >= 2)
    dispatcher.run_forever(stop)
    start, did, end = [record.message for record in caplog.records]
    assert start.startswith(f"the dispatcher starts on {mill.database.url}: a round every 1 s")
    assert did == "lost images rescued: 2, jobs finished: 1, wake-ups published: 2"
    assert end == "the dispatcher stops"


def test_two_dispatchers_do_no_harm(mill: Mill, queues: Queues, dispatcher: Dispatcher) -> None:
    job = mill.load("job", [f"p{n}" for n in range(9)])
    shift = mill.shift()
    mill.claim(shift)
    mill.expire(shift)
    second = Dispatcher(mill.database, Settings.load())
    rescued = [dispatcher.run_once().rescued, second.run_once().rescued]
    assert sum(rescued) == 8
    assert mill.counts(job) == Counts(ready=9)
    assert queues.held == {"default": MIN_TOKENS}


def test_wakes_workers_for_scoring_by_tokens_of_its_own(
    mill: Mill, queues: Queues, dispatcher: Dispatcher
) -> None:
    job = mill.load("done", ["a"])
    shift = mill.shift()
    (image,) = mill.claim(shift)
    mill.complete(shift, [image])
    mill.end(shift)
    dispatcher.run_once()
    assert queues.held == {}
    mill.database.run(
        lambda session: score_work.plan_work(
            session,
            job_id=job,
            route="80gb",
            scorer="sharpness",
            version="1",
            image_ids=[image.id],
        )
    )
    dispatcher.run_once()
    dispatcher.run_once()
    assert queues.held == {f"{SCORE_TASK} 80gb": 1}

"""The fleet as `imagemill workers` shows it, and the order to drain, on both databases."""

import pytest
from sqlalchemy import update

from imagemill.db.clock import seconds_from_now
from imagemill.db.errors import UsageError
from imagemill.db.queries.fleet import reports, workers
from imagemill.db.queries.fleet.workers import FleetWorker, list_fleet, order_drain
from imagemill.db.queries.pictures import environments
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.presence import ALIVE_SECONDS, LOST_SECONDS
from imagemill.db.tables import Worker
from tests.helpers.mill import Mill, sha

GPU = {"device_name": "NVIDIA H200", "shapes": {"slots": 16}}


def fleet(mill: Mill) -> dict[str, FleetWorker]:
    with mill.database.reading() as session:
        return {worker.name: worker for worker in list_fleet(session)}


def register(mill: Mill, name: str, *, host: str = "box") -> int:
    return mill.database.run(
        lambda session: shifts.register_worker(
            session, name=name, host=host, pid=4711, device="cuda:0", route="default"
        )
    )


def drain(mill: Mill, name: str, *, draining: bool = True) -> list[str]:
    return mill.database.run(lambda session: order_drain(session, name, draining=draining))


def test_a_worker_that_renders_says_what_and_how_fast(mill: Mill) -> None:
    mill.environment_id = mill.database.run(
        lambda session: environments.environment_id(session, fingerprint=sha("gpu"), document=GPU)
    )
    idle = fleet(mill)["w@host"]
    assert (idle.state, idle.model, idle.slots, idle.images_per_second) == ("waits", None, None, 0)
    mill.load("job", [f"p{n}" for n in range(5)])
    shift = mill.shift()
    mill.claim(shift, limit=2)
    first = fleet(mill)["w@host"]
    assert (first.state, first.model, first.images_in_work) == ("renders", "model-aaaa", 2)
    mill.complete(shift, mill.claim(shift, limit=2))
    found = fleet(mill)["w@host"]
    assert (found.device_name, found.slots) == ("NVIDIA H200", 16)
    assert found.images_in_work == 2
    assert 2 / 60 <= found.images_per_second <= 2
    assert found.since >= idle.since
    mill.end(shift)
    assert fleet(mill)["w@host"].state == "waits"
    assert fleet(mill)["w@host"].model == "model-aaaa", "what it rendered last"


def test_a_fast_fleet_shortens_the_window(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    mill.load("job", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    mill.age(10)
    long_ago = update(Worker).values(started_at=seconds_from_now(-1000))
    mill.database.run(lambda session: session.execute(long_ago))
    assert fleet(mill)["w@host"].images_per_second == pytest.approx(1 / 60)
    monkeypatch.setattr(workers, "RATE_EVENTS", 1)
    # Nothing is known of the time before the newest event, which was ten seconds ago.
    assert 1 / 50 < fleet(mill)["w@host"].images_per_second <= 1 / 10


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a@box:1", ["a@box:1"]),
        ("a@box", ["a@box:1", "a@box:2"]),
        ("a", ["a@box:1", "a@box:2"]),
        ("box", ["a@box:1", "a@box:2", "b@box:3"]),
        ("host", ["w@host"]),
    ],
)
def test_a_process_a_worker_or_a_host_drains(mill: Mill, name: str, told: list[str]) -> None:
    for each in ("a@box:1", "a@box:2", "b@box:3"):
        register(mill, each)
    assert drain(mill, name) == told
    states = {worker.name: worker.state for worker in fleet(mill).values()}
    assert sorted(each for each, state in states.items() if state == "drained") == told
    assert drain(mill, name, draining=False) == told
    assert {worker.state for worker in fleet(mill).values()} == {"waits"}


def test_a_heartbeat_brings_the_order(mill: Mill) -> None:
    shift = mill.shift()
    drain(mill, "w@host")
    assert fleet(mill)["w@host"].state == "drains"
    orders = mill.renew(shift)
    assert orders is not None
    assert orders.draining


def test_whoever_is_not_there_can_not_drain(mill: Mill) -> None:
    gone = register(mill, "gone@box:1")
    mill.database.run(lambda session: shifts.stop_worker(session, gone))
    for name in ("gone@box", "", "a%", "nobody"):
        with pytest.raises(UsageError, match="no live worker"):
            drain(mill, name)


def test_a_process_that_replaces_a_drained_one_drains(mill: Mill) -> None:
    register(mill, "a_1@box:1")
    drain(mill, "a_1@box")
    register(mill, "a_1@box:2")
    register(mill, "aX1@box:3")
    states = {name: worker.state for name, worker in fleet(mill).items()}
    assert states["a_1@box:2"] == "drained"
    assert states["aX1@box:3"] == "waits", "the _ of a name is no wildcard"


def test_a_worker_that_is_started_again_takes_work(mill: Mill) -> None:
    first = register(mill, "a@box:1")
    drain(mill, "a@box")
    mill.database.run(lambda session: shifts.stop_worker(session, first))
    register(mill, "a@box:2")
    assert fleet(mill)["a@box:2"].state == "waits"


def unseen(mill: Mill, name: str, seconds: float) -> None:
    """As if the worker had given no sign of life for so long."""
    past = seconds_from_now(-seconds)
    mill.database.run(
        lambda session: session.execute(
            update(Worker).where(Worker.name == name).values(seen_at=past)
        )
    )


def states(mill: Mill, *, gone: bool = False) -> dict[str, str]:
    with mill.database.reading() as session:
        return {worker.name: worker.state for worker in list_fleet(session, gone=gone)}


def test_a_killed_worker_is_lost_and_soon_not_listed(mill: Mill) -> None:
    """Nobody signs off for it; and that its lease still runs does not make it render."""
    register(mill, "killed@box:1")
    mill.load("job", ["a"])
    shift = mill.shift(worker_id=register(mill, "busy@box:2"))
    mill.claim(shift)
    unseen(mill, "killed@box:1", LOST_SECONDS + 5)
    unseen(mill, "busy@box:2", LOST_SECONDS + 5)
    assert states(mill) == {"w@host": "waits", "killed@box:1": "lost", "busy@box:2": "lost"}
    with mill.database.reading() as session:
        told = {worker.name: worker.lost for worker in reports.list_workers(session)}
        assert told == {"w@host": False, "killed@box:1": True, "busy@box:2": True}
        [lost] = [each for each in list_fleet(session) if each.name == "killed@box:1"]
        assert lost.since == lost.seen_at
    unseen(mill, "killed@box:1", ALIVE_SECONDS + 5)
    assert "killed@box:1" not in states(mill)
    assert states(mill, gone=True)["killed@box:1"] == "lost"
    unseen(mill, "killed@box:1", workers.GONE_SECONDS + 5)
    assert "killed@box:1" not in states(mill, gone=True)


def test_a_stopped_worker_is_listed_only_among_all(mill: Mill, monkeypatch) -> None:
    first, second = (register(mill, f"stopped@box:{n}") for n in (1, 2))
    for each in (first, second):
        mill.database.run(lambda session, each=each: shifts.stop_worker(session, each))
    assert states(mill) == {"w@host": "waits"}
    assert states(mill, gone=True) == {
        "w@host": "waits",
        "stopped@box:1": "stopped",
        "stopped@box:2": "stopped",
    }
    monkeypatch.setattr(workers, "MOST_GONE", 1)
    assert states(mill, gone=True) == {"w@host": "waits", "stopped@box:2": "stopped"}

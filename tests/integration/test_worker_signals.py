"""Stopping and killing real Celery workers: what is given back, what is charged, what ends."""

import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from imagemill.db.queries.fleet.reports import list_workers
from imagemill.db.queries.fleet.workers import order_drain
from imagemill.db.queries.tallies import Counts
from imagemill.db.states import ImageState
from tests.helpers.mill import spec
from tests.integration.workers import (
    Plant,
    children,
    command_of,
    eventually,
    held,
    lives,
    planted,
    uncharged,
)

ENDLESS = [replace(spec(f"slow {n}"), steps=8) for n in range(400)]
"""Two and a half minutes of work: for tests that stop it, and never see its end."""


SETTINGS = {
    "heartbeat_seconds": "0.3",
    "drain_seconds": "120",
    "retry_seconds": "0",
    "max_solo_losses": "2",
}


@pytest.fixture
def plant(migrated_url: str, broker_url: str, tmp_path: Path) -> Iterator[Plant]:
    """Postgres, Valkey and a folder."""
    with planted(migrated_url, tmp_path, broker_url=broker_url, **SETTINGS) as plant:
        yield plant


def held_by_a_child(plant: Plant, job: int) -> int:
    """A child's pid, once it renders images of the job."""
    assert eventually(lambda: plant.leased(job) > 0), plant.logs
    return plant.busy_child()


@pytest.mark.parametrize(
    ("number", "group", "device"),
    [
        (signal.SIGTERM, False, "cpu"),
        (signal.SIGTERM, True, "cpu"),
        (signal.SIGINT, True, "cpu"),
        (signal.SIGTERM, True, "cuda"),
    ],
    ids=["SIGTERM", "SIGTERM to the group", "Ctrl-C", "SIGTERM to the group of a GPU's"],
)
def test_a_drain_gives_everything_back_and_charges_nobody(
    plant: Plant, number: signal.Signals, group: bool, device: str
) -> None:
    """The children of a GPU's worker are no forks; the fake engine needs no GPU for that."""
    job = plant.mill.load("job", ENDLESS)
    plant.dispatcher()
    worker = plant.worker(device=device)
    child = held_by_a_child(plant, job)
    worker.signal(number, group=group)
    assert worker.ends() == 0, plant.logs
    assert not lives(child)
    counts = plant.mill.counts(job)
    assert counts.leased == 0, "its images wait for the end of a lease"
    assert counts.ready > 0, "it rendered on instead of stopping at a step"
    assert all(uncharged(plant.mill, job))
    assert "Traceback" not in worker.said


def test_a_notice_of_a_spot_instance_drains(plant: Plant, tmp_path: Path) -> None:
    job = plant.mill.load("job", ENDLESS)
    plant.dispatcher()
    worker = plant.worker(notice_file=str(tmp_path / "notice"))
    held_by_a_child(plant, job)
    (tmp_path / "notice").touch()
    assert worker.ends() == 0
    assert plant.leased(job) == 0
    assert all(uncharged(plant.mill, job))


def test_a_second_signal_ends_at_once(plant: Plant) -> None:
    job = plant.mill.load("job", ["hang now"])
    plant.dispatcher()
    worker = plant.worker(drain_seconds="600")
    child = held_by_a_child(plant, job)
    worker.signal(signal.SIGTERM)
    assert eventually(lambda: "draining (SIGTERM)" in worker.said)
    assert lives(child)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 143
    assert eventually(lambda: not lives(child))


def test_a_drain_that_takes_too_long_is_ended(plant: Plant) -> None:
    job = plant.mill.load("job", ["hang now"])
    plant.dispatcher()
    worker = plant.worker(drain_seconds="1")
    child = held_by_a_child(plant, job)
    worker.signal(signal.SIGTERM)
    worker.ends()
    assert eventually(lambda: not lives(child))
    assert "could not stop within 1 s" in worker.said


def test_a_killed_parent_takes_its_children_along(plant: Plant, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = plant.mill.load("job", held(gate, 12))
    plant.dispatcher()
    worker = plant.worker(children=2)
    held_by_a_child(plant, job)
    family = children(worker.pid)
    worker.signal(signal.SIGKILL)
    worker.ends()
    assert eventually(lambda: not any(map(lives, family)))
    gate.touch()
    plant.worker()
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=12)


def test_a_child_that_needs_too_much_memory_is_replaced(plant: Plant) -> None:
    images = [replace(spec(f"leak {n}"), steps=4) for n in range(32)]
    # 2 GiB in all: a child that notices late, because its records are slow, leaves enough.
    job = plant.mill.load("job", images)
    plant.dispatcher()
    worker = plant.worker(max_worker_memory="500MiB")
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=len(images))
    assert all(uncharged(plant.mill, job)), "a neighbour of the limit was charged"
    with plant.database.reading() as session:
        query = text("SELECT count(DISTINCT worker_id) FROM shifts WHERE end_reason = 'memory'")
        assert session.scalar(query) >= 2
    assert "MiB where IMAGEMILL_MAX_WORKER_MEMORY allows 500" in worker.said
    assert "WorkerLostError" not in worker.said
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, plant.logs


def test_a_limit_below_what_a_child_needs_only_slows_it_down(plant: Plant) -> None:
    job = plant.mill.load("job", [f"picture {n}" for n in range(9)])
    plant.dispatcher()
    plant.worker(max_worker_memory="10MiB")
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=9)


def test_a_worker_that_cannot_start_children_says_so_and_fails(
    plant: Plant, tmp_path: Path
) -> None:
    """Killing billiard's semaphore tracker has that effect; a campaign of kills met it.

    Only where children are spawned: forks need no tracker.
    """
    gate = tmp_path / "gate"
    job = plant.mill.load("job", held(gate, 12))
    plant.dispatcher()
    worker = plant.worker(children=2, device="cuda")
    held_by_a_child(plant, job)
    [tracker] = [pid for pid in children(worker.pid) if "semaphore_tracker" in command_of(pid)]
    os.kill(tracker, signal.SIGKILL)
    os.kill(plant.busy_child(), signal.SIGKILL)
    gate.touch()
    assert worker.ends() == 70, plant.logs
    assert worker.said.count("can't start a child process") == 1
    plant.worker()
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=12)


def test_a_killed_childs_images_are_leased_again(plant: Plant, tmp_path: Path) -> None:
    """By another child; the parent replaces the lost one itself."""
    gate = tmp_path / "gate"
    job = plant.mill.load("job", held(gate, 12))
    plant.dispatcher()
    plant.worker(children=2)
    child = held_by_a_child(plant, job)
    leased = [i.id for i in plant.mill.images(job) if i.state == ImageState.LEASED]
    os.kill(child, signal.SIGKILL)

    def rescued() -> bool:
        plant.bury()
        return any("lost" in plant.mill.events(each) for each in leased)

    assert eventually(rescued), plant.logs
    gate.touch()
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=12)
    assert {plant.mill.events(each)[-1] for each in leased} == {"done"}


def test_a_frozen_child_is_fenced(plant: Plant, tmp_path: Path) -> None:
    """Its lease ends by the clock; the other child, which lives, may lose one without harm."""
    gate = tmp_path / "gate"
    job = plant.mill.load("job", held(gate, 8))
    plant.dispatcher()
    plant.worker(children=2, lease_seconds="3", max_solo_losses="20")
    child = held_by_a_child(plant, job)
    os.kill(child, signal.SIGSTOP)
    gate.touch()
    try:
        assert plant.finishes(job), plant.logs
        done = {i.id: plant.mill.events(i.id) for i in plant.mill.images(job)}
    finally:
        os.kill(child, signal.SIGCONT)
    # Either of its threads may notice first.
    assert eventually(lambda: re.search("lost its lease|lease lost", plant.logs)), plant.logs
    time.sleep(1)
    assert {i.id: plant.mill.events(i.id) for i in plant.mill.images(job)} == done
    assert all(events.count("done") == 1 for events in done.values())


@pytest.mark.parametrize("word", ["kill", "segv"])
def test_an_image_that_ends_its_process_dies_alone(plant: Plant, word: str) -> None:
    job = plant.mill.load("job", ["a", "b", f"{word} it", "c"])
    plant.dispatcher()
    plant.worker()
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=3, dead=1)
    [dead] = [i for i in plant.mill.images(job) if i.state == ImageState.DEAD]
    assert dead.prompt == f"{word} it"
    assert dead.error_code == "worker_lost"
    assert dead.error_message
    assert plant.mill.events(dead.id) == ["lost", "lost", "dead"]


def test_a_hung_step_is_given_up_and_its_child_replaced(plant: Plant) -> None:
    job = plant.mill.load("job", ["a", "hang now", "b"])
    plant.dispatcher()
    worker = plant.worker(hang_seconds="1", lease_seconds="2")
    child = held_by_a_child(plant, job)
    assert plant.finishes(job), plant.logs
    assert plant.mill.counts(job) == Counts(done=2, dead=1)
    assert not lives(child)
    assert eventually(lambda: children(worker.pid))
    assert "ending this process" in worker.said


def test_idle_workers_are_seen_and_dead_ones_replaced(plant: Plant) -> None:
    """No token has come yet: nothing but the children's own signs says that they are there."""

    def alive() -> set[int]:
        with plant.database.reading() as session:
            return {worker.pid for worker in list_workers(session)} - {1}  # the mill's own

    worker = plant.worker(children=2)
    assert eventually(lambda: len(alive()) == 2), plant.logs
    first = min(alive())
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: len(alive() - {first}) == 2), plant.logs
    worker.signal(signal.SIGTERM)
    worker.ends()
    assert alive() <= {first}


def test_a_worker_that_an_operator_drains_takes_nothing_until_it_is_resumed(plant: Plant) -> None:
    job = plant.mill.load("job", ENDLESS)
    plant.dispatcher()
    worker = plant.worker()
    held_by_a_child(plant, job)
    host = os.uname().nodename
    order = plant.database.run
    assert order(lambda session: order_drain(session, host, draining=True))
    assert eventually(lambda: plant.leased(job) == 0), plant.logs
    assert eventually(lambda: "an operator drains this worker" in worker.said), plant.logs
    assert plant.mill.counts(job).ready > 0
    assert all(uncharged(plant.mill, job))
    assert plant.leased(job) == 0
    done = plant.mill.counts(job).done
    assert order(lambda session: order_drain(session, host, draining=False))
    assert eventually(lambda: plant.mill.counts(job).done > done), plant.logs

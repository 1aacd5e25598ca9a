"""Images a second that many simulated workers get done through one PostgreSQL and one broker."""

import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from benchmarks.scale import fleet, large_jobs
from benchmarks.scale.fleet import Device, NoStore, Worked
from benchmarks.scale.servers import cpu_seconds, postgres, valkey
from imagemill.db.broker.wake_ups import Tokens
from imagemill.db.database import Database
from imagemill.db.present_store import record_store
from imagemill.db.queries.audit import audit
from imagemill.db.queries.fleet.owners import weigh_owner
from imagemill.db.queries.tallies import count_images
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.states import ImageState
from imagemill.db.tables import Image, Job, Shift, Worker
from imagemill.scheduler_jobs.dispatcher import ROUND_SECONDS, Dispatcher
from tests.helpers.mill import Mill

WEIGHTS = {"ada": 3, "grace": 1}
"""The owners, each with one job, and the weights by which they share the workers."""

SPARE = 1.5
"""A job has so many times the images that the devices could render, so that it never runs out."""

_READY_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is simulated. `seconds` are measured, after `warm_up` seconds with all workers."""

    workers: int = 200
    processes: int = 4
    seconds: float = 30.0
    warm_up: float = 10.0
    shift_seconds: float = 60.0
    device: Device = field(
        default_factory=lambda: Device(slots=16, images_per_second=10.0, mixed=False)
    )
    statements: bool = False


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Counters at one moment; a measurement is the difference of two."""

    at: float
    done: dict[str, int]
    statements: int
    transactions: int
    ours: float
    postgres: float
    valkey: float
    dispatcher: float


def measure(plan: Plan) -> dict[str, Any]:
    """The figures of one run."""
    with postgres() as server, valkey() as broker:
        url = server.create_database("scale", statements=plan.statements)
        database = Database(url)
        migrate(database)
        record_store(database, NoStore())
        settings = Settings.load(
            database_url=url, broker_url=broker.url, shift_seconds=plan.shift_seconds
        )
        jobs = _jobs(Mill(database), plan)
        with _dispatcher(settings) as dispatched, _processes(plan, settings) as processes:
            tokens = Tokens(settings)
            tokens.publish(settings.route, plan.workers)
            tokens.close()
            _until_all_work(database, plan)
            time.sleep(plan.warm_up)

            def moment() -> Moment:
                return _moment(database, jobs, processes, dispatched, (server.pid or 0, broker.pid))

            _forget_statements(database, plan)
            first = moment()
            time.sleep(plan.seconds)
            last = moment()
            costs = _costs(database) if plan.statements else []
        worked = [process.ended() for process in processes]
        with database.reading() as session:
            violations = [str(each) for each in audit(session)]
            books = _books(session, jobs)
        result = _figures(plan, first, last) | books | _sum(worked)
        result |= {"violations": violations, "costs": costs}
        database.close()
    return result


def _jobs(mill: Mill, plan: Plan) -> dict[str, int]:
    """A job for each owner; the ids of the jobs by owner."""
    wanted = plan.workers * plan.device.images_per_second * (plan.seconds + plan.warm_up) * SPARE
    jobs = {}
    for owner, weight in WEIGHTS.items():
        mill.database.run(lambda s, o=owner, w=weight: weigh_owner(s, o, w))
        images = int(wanted * weight / sum(WEIGHTS.values())) + 8 * plan.workers
        jobs[owner] = large_jobs.load(mill, f"job of {owner}", images, owner=owner)
    return jobs


# The processes -----------------------------------------------------------------------------


class _Process:
    """A process of simulated workers."""

    def __init__(self, settings: Settings, plan: Plan, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        workers = plan.workers // plan.processes + (number < plan.workers % plan.processes)
        self._process = context.Process(
            target=fleet.work, args=(theirs, settings, plan.device, workers, f"host{number}")
        )
        self._process.start()
        self._last: Worked | None = None

    def snapshot(self) -> Worked:
        self._pipe.send("snapshot")
        return self._pipe.recv()

    def end(self) -> None:
        self._pipe.send("end")

    def ended(self) -> Worked:
        if self._last is None:
            self._last = self._pipe.recv()
            self._process.join()
        return self._last


@contextmanager
def _processes(plan: Plan, settings: Settings) -> Iterator[Sequence[_Process]]:
    processes = [_Process(settings, plan, number) for number in range(plan.processes)]
    try:
        yield processes
    finally:
        for process in processes:
            process.end()
        for process in processes:
            process.ended()


@contextmanager
def _dispatcher(settings: Settings) -> Iterator[dict[str, float]]:
    """The dispatcher of production in a thread; the processor time that it takes."""
    stop = threading.Event()
    spent = {"cpu_seconds": 0.0}
    database = Database.from_settings(settings)

    def run() -> None:
        dispatcher = Dispatcher(database, settings)
        while not stop.wait(ROUND_SECONDS):
            before = time.thread_time()
            dispatcher.run_once()
            spent["cpu_seconds"] += time.thread_time() - before

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield spent
    finally:
        stop.set()
        thread.join()
        database.close()


def _until_all_work(database: Database, plan: Plan) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        with database.reading() as session:
            if (
                session.scalar(select(func.count(Shift.worker_id.distinct()))) or 0
            ) >= plan.workers:
                return
        time.sleep(0.2)
    raise RuntimeError(f"not all of {plan.workers} workers were at work in {_READY_SECONDS} s")


# Figures -----------------------------------------------------------------------------------


def _moment(
    database: Database,
    jobs: dict[str, int],
    processes: Sequence[_Process],
    dispatched: dict[str, float],
    pids: tuple[int, int],
) -> Moment:
    with database.reading() as session:
        counts = count_images(session, jobs.values())
        transactions = session.scalar(
            text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        )
    now = time.monotonic()
    parts = [process.snapshot() for process in processes]
    return Moment(
        at=now,
        done={owner: counts[job_id].done for owner, job_id in jobs.items()},
        statements=sum(part.statements for part in parts),
        transactions=int(transactions or 0),
        ours=sum(part.cpu_seconds for part in parts),
        postgres=cpu_seconds(pids[0]),
        valkey=cpu_seconds(pids[1]),
        dispatcher=dispatched["cpu_seconds"],
    )


def _figures(plan: Plan, first: Moment, last: Moment) -> dict[str, Any]:
    seconds = last.at - first.at
    done = {owner: last.done[owner] - first.done[owner] for owner in first.done}
    images = max(1, sum(done.values()))
    offered = plan.workers * plan.device.images_per_second
    return {
        "workers": plan.workers,
        "slots": plan.device.slots,
        "mixed": plan.device.mixed,
        "seconds": round(seconds, 1),
        "offered_images_per_second": offered,
        "images_per_second": round(images / seconds, 1),
        "statements_per_second": round((last.statements - first.statements) / seconds),
        "statements_per_image": round((last.statements - first.statements) / images, 2),
        "commits_per_second": round((last.transactions - first.transactions) / seconds),
        "postgres_cpu_ms_per_image": round(1000 * (last.postgres - first.postgres) / images, 3),
        "workers_cpu_ms_per_image": round(1000 * (last.ours - first.ours) / images, 3),
        "valkey_cpu_percent": round(100 * (last.valkey - first.valkey) / seconds, 1),
        "dispatcher_cpu_percent": round(100 * (last.dispatcher - first.dispatcher) / seconds, 1),
        "shares": {owner: round(count / images, 3) for owner, count in done.items()},
        "wanted_shares": {
            owner: weight / sum(WEIGHTS.values()) for owner, weight in WEIGHTS.items()
        },
    }


def _books(session: Session, jobs: dict[str, int]) -> dict[str, Any]:
    """What the database says at the end; its counters beside images that are counted one by one."""
    tallied = count_images(session, jobs.values())
    truth = {
        (job_id, state): count
        for job_id, state, count in session.execute(
            select(Image.job_id, Image.state, func.count()).group_by(Image.job_id, Image.state)
        )
    }
    exact = all(
        truth.get((job_id, state), 0) == getattr(tallied[job_id], state)
        for job_id in jobs.values()
        for state in ImageState
    )
    lost = select(func.count(Shift.id)).where(Shift.end_reason == "lost")
    return {
        "done": sum(counts.done for counts in tallied.values()),
        "dead": sum(counts.dead for counts in tallied.values()),
        "leased_at_the_end": sum(counts.leased for counts in tallied.values()),
        "counters_exact": exact,
        "lease_expiries": session.scalar(lost),
        "registered_workers": session.scalar(select(func.count(Worker.id))),
        "jobs": session.scalar(select(func.count(Job.id))),
    }


def _sum(worked: Sequence[Worked]) -> dict[str, int]:
    return {
        "done_by_workers": sum(each.images for each in worked),
        "shifts": sum(each.shifts for each in worked),
        "failed_shifts": sum(each.errors for each in worked),
    }


# Statements --------------------------------------------------------------------------------


def _forget_statements(database: Database, plan: Plan) -> None:
    if plan.statements:
        database.run(lambda session: session.execute(text("SELECT pg_stat_statements_reset()")))


def _costs(database: Database) -> list[dict[str, Any]]:
    """The statements that took most of the server's time since the statistics were reset."""
    query = text(
        "SELECT calls, total_exec_time AS ms, rows, query FROM pg_stat_statements"
        " ORDER BY total_exec_time DESC LIMIT 25"
    )
    with database.reading() as session:
        return [
            {
                "calls": row.calls,
                "milliseconds": round(row.ms),
                "microseconds_each": round(1000 * row.ms / row.calls),
                "rows": row.rows,
                "statement": " ".join(row.query.split())[:160],
            }
            for row in session.execute(query)
        ]

"""One worker process: what it keeps between shifts, and how a shift is started."""

import logging
import os
import time
from collections.abc import Callable
from functools import cache, partial
from threading import Thread

from billiard import current_process

from imagemill.db.broker.wake_ups import SCORE_TASK, SHIFT_TASK, Tokens
from imagemill.db.database import Database
from imagemill.db.errors import BrokerError, ImagemillError, SettingsError
from imagemill.db.models.scorers import all_scorers
from imagemill.db.present_store import record_store
from imagemill.db.process.logs import configure_logging
from imagemill.db.process.quick_import import quick_import
from imagemill.db.queries.work import score_work, shifts
from imagemill.db.queries.work.due_images import due_images
from imagemill.db.queries.work.memory_needs import Card
from imagemill.db.schema import ensure_schema
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage
from imagemill.worker.process.drain import DrainSignal
from imagemill.worker.process.memory import ResidentLimit
from imagemill.worker.process.pool import replace_this_child
from imagemill.worker.process.presence import Presence
from imagemill.worker.process.profile import trace_of_this_child
from imagemill.worker.process.start_method import HEAVY_MODULE
from imagemill.worker.scores.shelf import ScorerShelf
from imagemill.worker.scores.shift import ScoreShift
from imagemill.worker.shifts.agreements import Agreements
from imagemill.worker.shifts.shelf import Shelf
from imagemill.worker.shifts.shift import AvoidedGroups, Shift, ShiftReport
from imagemill.worker.shifts.worker_context import WorkerContext

log = logging.getLogger(__name__)

_AFTER_FAULT_SECONDS = 5.0
"""How long a child waits after a shift that a failing service ended, so that it never spins."""

_TOKEN_SECONDS = 2.0
"""How long a child keeps a token that it must not use, so that other workers get the next ones."""


class Child:
    """A process that renders: its database, storage, models, and its row in `workers`."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_shelf: Callable[[Storage], Shelf],
        device: str,
        presence: Presence,
        card: Card | None = None,
    ) -> None:
        self._settings = settings
        self._database = Database.from_settings(settings)
        ensure_schema(self._database)
        storage = open_storage(settings)
        # Each process has to find out for itself whether the store honours conditional PUT.
        log.info("%s", storage.probe())
        record_store(self._database, storage)
        self._shelf = open_shelf(storage)
        self._avoided = AvoidedGroups()
        self._scorers = ScorerShelf(all_scorers(settings), settings)
        self._tokens = Tokens(settings)
        self.drain = DrainSignal(seconds=settings.drain_seconds)
        self.drain.install()
        self._worker_id = presence.worker_id(device, card)
        self._context = WorkerContext(
            database=self._database,
            storage=storage,
            settings=settings,
            worker_id=self._worker_id,
            drain=self.drain,
            memory_limit=ResidentLimit(settings.max_worker_memory),
        )
        self._was_drained = False

    def work(self, route: str) -> str:
        """Do one shift; returns its report, as Flower shows it. If work is left, publish a token.

        A `ServiceError` ends the shift and not the process. What was held is given back, or
        released when the lease is over. A token for another route than this worker's is refused,
        because somebody who can publish messages must not choose what a worker renders.
        """
        if (refusal := self._refusal(route)) is not None:
            return refusal
        report = Shift(self._context, shelf=self._shelf, avoided=self._avoided).work()
        # A shift without work is no reason: a limit below what an idle child needs would start
        # processes for ever.
        if report.done + report.failed and self._context.memory_limit.passed():
            replace_this_child()
        self._wake_next(route, report)
        return str(report)

    def score(self, route: str) -> str:
        """Do one shift of scoring; as `work`."""
        if (refusal := self._refusal(route)) is not None:
            return refusal
        report = ScoreShift(self._context, shelf=self._scorers).work()
        able = self._scorers.able
        if report.judged + report.failed and self._database.run(
            lambda session: score_work.count_due(session, route=route, known=able)
        ):
            self._wake(route, SCORE_TASK)
        return str(report)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _refusal(self, route: str) -> str | None:
        """Why to do no shift now; None if nothing is against it."""
        if route == self._settings.route:
            return self._drained()
        log.warning("a token for another route than %s was refused", self._settings.route)
        return f"refused: this worker takes the route {self._settings.route}"

    def _drained(self) -> str | None:
        """Why to do no shift, if an operator drains this worker; None if nobody does.

        It keeps the token for a while, so that a drained worker leaves the others to others.
        """
        drained = self._database.run(lambda session: shifts.is_draining(session, self._worker_id))
        if drained != self._was_drained:
            log.info("an operator %s", "drains this worker" if drained else "resumes this worker")
        self._was_drained = drained
        if not drained:
            return None
        self.drain.wait(_TOKEN_SECONDS)
        return "refused: an operator drains this worker (`imagemill workers resume`)"

    def _wake_next(self, route: str, report: ShiftReport) -> None:
        if report.failed and not report.done:
            return
        if not self._database.run(due_images).get(route):
            return
        if report.done:
            self._wake(route, SHIFT_TASK)
        else:
            # The due images are for other workers: this one is pinned, or leaves the group alone.
            self.drain.wait(_TOKEN_SECONDS)

    def _wake(self, route: str, task: str) -> None:
        if self.drain.since is not None:
            return
        try:
            self._tokens.publish(route, task=task)
        except BrokerError as error:
            log.warning("the dispatcher will wake the next shift: %s", error)


def open_child(settings: Settings, presence: Presence) -> Child:
    """A child with its own device and the registered models."""
    # While diffusers is imported, it replaces its own module object. A thread that imports it at
    # the same time gets the first object, which lacks most names.
    _early_import().join()
    # Imported here: a parent whose children are programs of their own never loads torch.
    from imagemill.worker.models.device import device_class, prepare_process, resolve_device  # noqa: PLC0415  # see above
    from imagemill.worker.models.device_memory import memory_of, tuning_digest  # noqa: PLC0415  # see above
    from imagemill.worker.models.tuning import check_compiler  # noqa: PLC0415  # see above
    from imagemill.worker.shifts.memory_needs import MemoryNeeds  # noqa: PLC0415  # see above
    from imagemill.worker.shifts.model_shelf import ModelShelf  # noqa: PLC0415  # see above

    settings = _with_own_device(settings)
    prepare_process(settings)
    device = resolve_device(settings)
    check_compiler(settings, device)
    database, kind = Database.from_settings(settings), device_class(device)
    agreements = Agreements(database, device_class=kind, settings=settings)
    needs = card = None
    if (memory := memory_of(device)) is not None:
        tuning = tuning_digest(settings, device)
        needs = MemoryNeeds(database, memory=memory, tuning=tuning, device_class=kind)
        card = needs.card
    open_shelf = partial(ModelShelf, settings, agreements, needs=needs, trace=trace_of_this_child())
    return Child(settings, open_shelf=open_shelf, device=str(device), presence=presence, card=card)


@cache
def this_presence() -> Presence:
    """The process's own `Presence`."""
    return Presence(Settings.load())


@cache
def this_child() -> Child:
    """The process's own `Child`, made when its first task arrives."""
    settings = Settings.load()
    configure_logging(settings)
    return open_child(settings, this_presence())


def announce_child() -> None:
    """Let the database know that this process is there, before it has anything to do."""
    this_presence().start()
    load_early()


def load_early() -> None:
    """Import torch and diffusers in a thread, while Celery connects to the broker.

    Importing takes seconds, and the first task needs it. Not in the main thread: the pool kills a
    child that does not report in time. In a fork everything is there already.
    """
    _early_import()


@cache
def _early_import() -> Thread:
    thread = Thread(target=quick_import, args=[HEAVY_MODULE], daemon=True)
    thread.start()
    return thread


def work_shift(route: str) -> str:
    """Do one shift of this process. An error outside of the shift is one line and a pause."""
    return _do_shift(lambda child: child.work(route))


def score_shift(route: str) -> str:
    """Do one shift of scoring; as `work_shift`."""
    return _do_shift(lambda child: child.score(route))


def _do_shift(work: Callable[[Child], str]) -> str:
    pause: Callable[[float], object] = time.sleep
    try:
        child = this_child()
        pause = child.drain.wait
        return work(child)
    except ImagemillError as error:
        log.error("the shift ended early: %s: %s", error.code, error)  # noqa: TRY400  # one line
        pause(_AFTER_FAULT_SECONDS)
        return f"ended early ({error.code}): {error}"


def close_child() -> None:
    """Close the connections, and say in the database that this process has ended."""
    if this_presence.cache_info().currsize:
        this_presence().close()
    if this_child.cache_info().currsize:
        this_child().close()


def _with_own_device(settings: Settings) -> Settings:
    """Give each child one GPU: the first child takes the first of `CUDA_VISIBLE_DEVICES`, …"""
    if settings.device not in {"auto", "cuda"}:
        return settings
    index = getattr(current_process(), "index", 0) or 0
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[index % len(visible)]
        return settings
    import torch  # noqa: PLC0415  # only children load torch

    count = torch.cuda.device_count()
    if count == 0:
        if settings.device == "cuda":
            raise SettingsError("IMAGEMILL_DEVICE: cuda, but torch sees no GPU; use cpu or auto")
        return settings
    return settings.model_copy(update={"device": f"cuda:{index % count}"})

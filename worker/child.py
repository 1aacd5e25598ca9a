"""One worker process: what it keeps between shifts, and how a shift is started."""

import logging
import os
import socket
import time
from functools import cache

from billiard import current_process

from db.broker import Tokens
from db.database import Database
from db.errors import BrokerError, ServiceError, SettingsError
from db.logs import configure_logging
from db.queries import jobs, shifts
from db.schema import check_schema
from db.settings import Settings
from db.storage.opening import open_storage
from worker.drain import DrainSignal
from worker.shelf import ModelShelf
from worker.shift import Refusals, Shift, ShiftReport

log = logging.getLogger(__name__)

_AFTER_FAULT_SECONDS = 5.0
"""How long a child waits after a shift that a service ended: it never spins."""


class Child:
    """A process that renders: its database, storage, models, and its row in `workers`."""

    def __init__(self, settings: Settings) -> None:
        # Here and not above: the parent, which only supervises, never loads torch.
        from worker.device import prepare_process, resolve_device  # noqa: PLC0415  # see above

        prepare_process(settings)
        self._settings = settings
        self._device = str(resolve_device(settings))
        self._database = Database.from_settings(settings)
        check_schema(self._database)
        self._storage = open_storage(settings)
        # Each process finds out for itself whether the store honours conditional PUT.
        log.info("%s", self._storage.probe())
        self._shelf = ModelShelf(settings, self._storage)
        self._refusals = Refusals()
        self._tokens = Tokens(settings)
        self._draining = DrainSignal(seconds=settings.drain_seconds)
        self._draining.install()
        self._worker_id = self._register()

    def work(self, route: str) -> str:
        """One shift; its report, readable in Flower. Publishes the next token while work is left.

        A service that does not answer ends the shift, not the process; what was held is given
        back, or is released when the lease is over.
        """
        shift = Shift(
            database=self._database,
            storage=self._storage,
            shelf=self._shelf,
            settings=self._settings,
            worker_id=self._worker_id,
            route=route,
            refusals=self._refusals,
            draining=self._draining,
        )
        try:
            report = shift.work()
            self._wake_next(route, report)
        except ServiceError as error:
            log.error("the shift ended early: %s: %s", error.code, error)  # noqa: TRY400  # one line
            time.sleep(_AFTER_FAULT_SECONDS)
            return f"ended early ({error.code}): {error}"
        return str(report)

    def close(self) -> None:
        """Say in the database that this process has stopped in good order."""
        self._database.run(lambda session: shifts.stop_worker(session, self._worker_id))
        self._database.close()

    def _wake_next(self, route: str, report: ShiftReport) -> None:
        if self._draining() or report.done == 0:
            return
        ready = self._database.run(jobs.ready_images)
        if ready.get(route):
            try:
                self._tokens.publish(route)
            except BrokerError as error:
                log.warning("the dispatcher will wake the next shift: %s", error)

    def _register(self) -> int:
        host, pid = socket.gethostname(), os.getpid()
        return self._database.run(
            lambda session: shifts.register_worker(
                session,
                name=f"{host}:{pid}",
                host=host,
                pid=pid,
                device=self._device,
                route=self._settings.route,
            )
        )


@cache
def this_child() -> Child:
    """The process's own `Child`, made when its first task arrives."""
    settings = Settings.load()
    configure_logging(settings)
    return Child(_with_own_device(settings))


def _with_own_device(settings: Settings) -> Settings:
    """One GPU a child: the pool's first child takes the first of `CUDA_VISIBLE_DEVICES`, …"""
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

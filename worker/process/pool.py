"""The pool of children: Celery's prefork pool, with ends that Celery does not know.

A child whose memory has passed the limit ends after its task, and the pool replaces it. Celery's
own limit looks at the most memory that a process ever had, so a child that once needed much to
load a model would be replaced after every shift. And a parent that can't start children any more
says so and stops: Celery takes that error for a lost broker connection, goes on without a child,
and in the end reports success.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from billiard.pool import CLOSE, EX_FAILURE, EX_OK, EX_RECYCLE, RUN
from celery.concurrency.asynpool import AsynPool, ResultHandler
from celery.concurrency.asynpool import Worker as PoolWorker
from celery.concurrency.prefork import TaskPool as PreforkPool

from imagemill.worker.process.start_method import prepare_to_fork

log = logging.getLogger(__name__)

_EXIT_NO_CHILDREN = 70  # EX_SOFTWARE
_ALL_ARE_READ = 2**31 - 1
"""More results than a child can have sent: the C integer in which it sees how many were read."""

_leaving = threading.Event()
_broken = threading.Event()


def replace_this_child() -> None:
    """End this child once its task has reported; the pool starts another. In a child."""
    _leaving.set()


def exit_status() -> int:
    """The status that the worker should end with. In the parent."""
    return _EXIT_NO_CHILDREN if _broken.is_set() else 0


class ReplaceableChild(PoolWorker):  # type: ignore[misc]  # Celery has no types
    """A child that may ask to be replaced."""

    def _make_child_methods(self, *arguments: Any) -> None:
        super()._make_child_methods(*arguments)
        receive: Callable[[], Any] = self.__dict__["wait_for_job"]

        # The pool asks for a job only after the result of the last one was sent. So a child that
        # ends here loses nothing.
        def wait_for_job() -> Any:
            if _leaving.is_set():
                sys.exit(EX_RECYCLE)
            return receive()

        self.__dict__["wait_for_job"] = wait_for_job

    def _do_exit(self, pid: int, exitcode: int | None, exc: Exception | None = None) -> NoReturn:
        """Sign off and end. Celery would tell the parent, and wait a second for its signal.

        The parent has read the results by then (`_ensure_messages_consumed`), or never will
        (`LastResults`), and sees the end of the process itself.
        """
        status = (EX_FAILURE if exc else EX_OK) if exitcode is None else exitcode
        try:
            if self.on_exit is not None:
                self.on_exit(pid, status)
        finally:
            os._exit(status)


class LastResults(ResultHandler):  # type: ignore[misc]  # Celery has no types
    """Reads results, and tells the children when it will read no more."""

    def on_stop_not_started(self) -> None:
        """Read the results of the tasks that the pool knows of. Then let every child end.

        A pool that stops forgets a task that it has handed over and not yet seen begin. Nobody
        would read its result, for which its child would wait half a minute before it ends.
        """
        super().on_stop_not_started()
        for read in (self.on_ready_counters or {}).values():
            with read.get_lock():
                read.value = _ALL_ARE_READ


class SupervisedPool(AsynPool):  # type: ignore[misc]  # Celery has no types
    """A pool that ends its worker when it can't replace a child."""

    Worker = ReplaceableChild
    ResultHandler = LastResults

    def maintain_pool(self) -> None:
        """Replace children that have ended, as Celery does; stop the worker if that fails."""
        if _broken.is_set():
            return
        try:
            super().maintain_pool()
        except (OSError, MemoryError) as error:
            # Whatever is missing (processes, memory, billiard's semaphore tracker) does not come
            # back by itself. Children that still live give back what they hold; a supervisor
            # that restarts on failure then starts a worker that can work.
            _broken.set()
            log.critical("can't start a child process (%s); draining, to end with status %d",
                         error, _EXIT_NO_CHILDREN)  # fmt: skip
            os.kill(os.getpid(), signal.SIGTERM)


class TaskPool(PreforkPool):  # type: ignore[misc]  # Celery has no types
    """Celery's prefork pool with our children."""

    Pool = SupervisedPool
    _pool: Any

    def on_start(self) -> None:
        """Start the children, as Celery does; remember if that fails.

        Celery then ends the worker by itself, but does not hand its failure to the command.
        """
        if self.forking_enable:
            prepare_to_fork()
        try:
            super().on_start()
        except (OSError, MemoryError):
            _broken.set()
            raise

    def on_stop(self) -> None:
        """Wait until the children have ended.

        Celery meanwhile keeps a heart beating for RabbitMQ, half a second longer than the children
        live. Our brokers want none, and a token is acknowledged before its task begins.
        """
        if self._pool is not None and self._pool._state in {RUN, CLOSE}:
            self._pool.close()
            self._pool.join()
            self._pool = None

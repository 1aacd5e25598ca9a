"""Waiting for jobs: one look at the database for all of them, a few times a second."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool

from imagemill.db.database import Database
from imagemill.db.errors import ServiceError
from imagemill.db.queries.tallies import count_images

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2


class Watch:
    """Knows how many images of the jobs are pending that somebody waits for.

    One look serves everybody who waits, so many clients cost no more than one.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: Counter[int] = Counter()
        self._pending: dict[int, int] = {}
        self._looked = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, job_id: int, *, until: Callable[[int], bool], seconds: float) -> bool:
        """Wait until the number of pending images is as wanted; False when the time is over.

        Raises `ServiceError` only through the caller's own queries: a database that is away for a
        moment is looked for again.
        """
        self._waiting[job_id] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_for_all())
        try:
            async with asyncio.timeout(seconds), self._looked:
                await self._looked.wait_for(
                    lambda: job_id in self._pending and until(self._pending[job_id])
                )
        except TimeoutError:
            return False
        finally:
            self._waiting[job_id] -= 1
            if not self._waiting[job_id]:
                del self._waiting[job_id]
                self._pending.pop(job_id, None)
        return True

    async def look(self, job_id: int) -> int:
        """How many images of the job are pending now: a look of the caller's own.

        For the end of a wait, which may come before the first look that serves everybody.
        Raises `ServiceError` if the database does not answer.
        """
        return (await run_in_threadpool(self._count, [job_id]))[job_id]

    async def _look_for_all(self) -> None:
        while self._waiting:
            ids = list(self._waiting)
            try:
                found = await run_in_threadpool(self._count, ids)
            except ServiceError as error:
                log.warning("looking again: %s", error)
                found = {}
            async with self._looked:
                self._pending.update({job_id: found[job_id] for job_id in ids if job_id in found})
                self._looked.notify_all()
            await asyncio.sleep(LOOK_SECONDS)

    def _count(self, ids: list[int]) -> dict[int, int]:
        with self._database.reading() as session:
            counts = count_images(session, ids)
        return {job_id: each.pending for job_id, each in counts.items()}

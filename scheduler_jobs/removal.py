"""Removing jobs with their pictures, and jobs that ended long ago (`rm`, `prune`).

Rows go before files, so that no done image is ever without its file. Between the two, a file is
listed in `removed_objects`: whoever removes next deletes it, and `sweep` finds it as well.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.queries.jobs import lifecycle, removals, removed_jobs
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.picture_folders import remove_names

FILES_A_STEP = 50
"""Few enough to be deleted while a transaction waits: the server ends one that idles for 30 s."""

THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What was done. `files` counts those that were deleted from the store."""

    jobs: int
    files: int
    size_bytes: int


def remove_jobs(
    database: Database,
    storage: Storage,
    settings: Settings,
    job_ids: Sequence[int],
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Removed:
    """Remove these jobs, and what earlier removals left behind when they were killed.

    Raises `UsageError` at a job that is live by then. Once `stopped` returns true it returns after
    the present step; the next call goes on.
    """
    for job_id in job_ids:
        # In an own transaction for each part; a cancelled job may have millions of ready images.
        while database.run(partial(lifecycle.cancel_stragglers, job_id=job_id)):
            pass
        database.run(partial(removals.begin, job_id=job_id))
    gone = 0
    with database.reading() as session:
        begun = removals.unfinished(session)
    for job_id in begun:
        if stopped():
            break
        remove_names(database, settings, job_id)
        while not stopped() and database.run(partial(removals.remove_some, job_id=job_id)):
            pass
        gone += not stopped()
    files, size_bytes = delete_files(database, storage, stopped=stopped)
    return Removed(jobs=gone, files=files, size_bytes=size_bytes)


def delete_files(
    database: Database,
    storage: Storage,
    *,
    stopped: Callable[[], bool] = lambda: False,
    spare_waiting: bool = True,
) -> tuple[int, int]:
    """Delete the files of removed objects that no image wants again; how many, and their bytes.

    Without `spare_waiting` also those that an image waits for: it is rendered anew.
    """
    files = size_bytes = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="remove") as pool:

        def step(session: Session) -> list[removed_jobs.LeavingFile]:
            taken = removed_jobs.take_removed_files(
                session, FILES_A_STEP, spare_waiting=spare_waiting
            )
            keys = [file.object_key for file in taken if not file.wanted]
            # The transaction is still open: nobody can begin to want one of them now.
            list(pool.map(storage.delete, keys))
            return taken

        while not stopped() and (taken := database.run(step)):
            gone = [file.size_bytes for file in taken if not file.wanted]
            files += len(gone)
            size_bytes += sum(gone)
    return files, size_bytes

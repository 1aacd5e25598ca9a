"""Holding the store against the database: `verify` re-hashes, `sweep` finds what nobody owns."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import islice

from imagemill.db.database import Database
from imagemill.db.errors import ObjectMissing
from imagemill.db.queries.jobs import lifecycle, removed_jobs
from imagemill.db.queries.pictures.objects import known_keys, objects_of_job
from imagemill.db.storage import Storage, StoredObject
from imagemill.db.storage.inputs import INPUTS
from imagemill.db.storage.keys import KERNELS, request_key_of
from imagemill.db.tables import Object
from imagemill.scheduler_jobs.removal import delete_files

PAGE = 500
"""Objects asked of the database at a time."""

THREADS = 8
"""Objects read from the store at a time."""


class Damage(StrEnum):
    """What can be wrong with a stored object."""

    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An object that is not what the database says."""

    object_id: int
    object_key: str
    damage: Damage


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What `verify` found. `requeued` counts images, of any job, to be rendered again."""

    checked: int
    findings: tuple[Finding, ...]
    requeued: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweeping:
    """What `sweep` found: objects without a row, and what writers left unfinished."""

    strays: tuple[StoredObject, ...]
    leftovers: tuple[StoredObject, ...]
    deleted: int


def verify(
    database: Database,
    storage: Storage,
    job_id: int,
    *,
    requeue: bool,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Read every object of a job and compare its SHA-256 with the recorded one.

    With `requeue`, what is missing or damaged is removed and its images are rendered again.
    """
    checked = requeued = 0
    findings: list[Finding] = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        for page in _pages(database, job_id):
            damages = pool.map(lambda item: _damage(storage, item), page)
            bad = [
                Finding(object_id=item.id, object_key=item.object_key, damage=damage)
                for item, damage in zip(page, damages, strict=True)
                if damage is not None
            ]
            findings += bad
            if requeue and bad:
                requeued += _requeue(database, storage, bad)
            checked += len(page)
            if progress is not None:
                progress(checked)
    return Verification(checked=checked, findings=tuple(findings), requeued=requeued)


def sweep(
    database: Database, storage: Storage, *, older_than_seconds: float, delete: bool
) -> Sweeping:
    """Find objects without a row, and with `delete` remove them.

    Only those older than `older_than_seconds`: a younger one may be about to get its row. An older
    one may too, if a worker has rendered the same picture again and found its file there. So each
    is listed as the file of a removed job, and deleted in a transaction that no worker gets past.
    """
    before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    strays: list[StoredObject] = []
    deleted = 0
    old = (item for item in storage.list() if _ours(item) and item.modified < before)
    while page := list(islice(old, PAGE)):
        with database.reading() as session:
            known = known_keys(session, [item.key for item in page])
        strays += [item for item in page if item.key not in known]
    leftovers = [item for item in storage.leftovers() if item.modified < before]
    if delete:
        deleted = _delete(database, storage, strays)
        for item in leftovers:
            storage.discard(item)
        deleted += len(leftovers)
    return Sweeping(strays=tuple(strays), leftovers=tuple(leftovers), deleted=deleted)


def _delete(database: Database, storage: Storage, strays: Sequence[StoredObject]) -> int:
    """Delete strays, as far as they still are; how many files went."""
    for start in range(0, len(strays), PAGE):
        listed = [
            (item.key, request_key, item.size)
            for item in strays[start : start + PAGE]
            if (request_key := request_key_of(item.key)) is not None
        ]
        database.run(partial(removed_jobs.list_files, files=listed))
    foreign = [item for item in strays if request_key_of(item.key) is None]
    for item in foreign:  # no worker writes such a key
        storage.delete(item.key)
    files, _ = delete_files(database, storage, spare_waiting=False)
    return files + len(foreign)


def _ours(item: StoredObject) -> bool:
    return not item.key.startswith((f"{INPUTS}/", f"{KERNELS}/"))


def _pages(database: Database, job_id: int) -> Iterator[list[Object]]:
    after = 0
    while True:
        with database.reading() as session:
            page = objects_of_job(session, job_id, limit=PAGE, after=after)
        if not page:
            return
        yield [stored for _, stored in page]
        after, _ = page[-1]


def _damage(storage: Storage, item: Object) -> Damage | None:
    try:
        body = storage.get(item.object_key)
    except ObjectMissing:
        return Damage.MISSING
    if len(body) != item.size_bytes or hashlib.sha256(body).hexdigest() != item.sha256:
        return Damage.DAMAGED
    return None


def _requeue(database: Database, storage: Storage, findings: list[Finding]) -> int:
    # The object first: a new rendering of the same bytes needs its key to be free. A crash in
    # between leaves a missing object, which the next `verify` finds.
    for finding in findings:
        storage.delete(finding.object_key)
    ids = [finding.object_id for finding in findings]
    return database.run(lambda session: lifecycle.requeue(session, ids))

"""`imagemill run`: the whole system in one folder, without a server and without any set-up.

It uses SQLite, a folder, a private Valkey and a real Celery worker, so it runs the same code as
production. `imagemill --home DIR …` works on the folder afterwards. The same command again goes on
where a run was stopped.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from imagemill.db.database import Database
from imagemill.db.errors import ServiceError, UsageError
from imagemill.db.given_settings import OBJECTS_FOLDER
from imagemill.db.present_store import record_store
from imagemill.db.process.whole_file import whole_file
from imagemill.db.queries.fleet.reports import ONE_BATCH_SECONDS
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.claims import RetryPolicy
from imagemill.db.queries.work.due_images import due_images
from imagemill.db.queries.work.presence import live_shifts
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.states import JobState
from imagemill.db.storage.factory import open_storage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.dispatcher import ROUND_SECONDS, Dispatcher
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.folder import BROKER_FOLDER, RunFolder, run_folder
from imagemill.scheduler_jobs.local.pictures import NamedPictures, name_pictures
from imagemill.scheduler_jobs.local.valkey import EmbeddedValkey
from imagemill.scheduler_jobs.local.worker import LocalWorker, check_takes
from imagemill.scheduler_jobs.manifest import ColumnReport, Source
from imagemill.scheduler_jobs.pages.job_sheet import job_pages
from imagemill.scheduler_jobs.picture_folders import (
    CONTACT_SHEET,
    PICTURES_FOLDER,
    first_job,
    job_suffix,
)
from imagemill.scheduler_jobs.picture_names import (
    DEFAULT_TEMPLATE,
    PictureNames,
    check_columns,
)
from imagemill.scheduler_jobs.submit.first_rows import check_first_rows
from imagemill.scheduler_jobs.submit.planning.idle_values import IdleRows
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import ForeignRows
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import Submission, submit

log = logging.getLogger(__name__)

WORKER_LOG = "worker.log"
SHEET_IMAGES = 60

_LOOK_SECONDS = 0.25
_FEW_IMAGES = 8
"""As many images as a batch has slots on a CPU."""

_STALLED_SECONDS = 180.0
"""How long nothing may happen, without a live shift, before the run gives up."""

_STILL_OPEN = (JobState.LOADING, JobState.OPEN, JobState.PAUSED)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a run did. `rendered` and `seconds` are of this run; the counts are of the job.

    `images_per_second` counts from the first finished batch on. It is None if no other followed.
    `undrawn` has the characters of the sheet's prompts that no font here has.
    """

    job_id: int
    job_name: str
    requested: int
    rendered: int
    reused: int
    done: int
    dead: int
    seconds: float
    images_per_second: float | None
    database: str
    output: Path
    contact_sheet: Path | None
    undrawn: frozenset[str] = frozenset()
    pictures: NamedPictures
    foreign_syntax: tuple[ForeignRows, ...]
    without_effect: tuple[IdleRows, ...]
    columns: tuple[ColumnReport, ...]
    interrupted: bool


def run(
    request: SubmissionRequest,
    *,
    settings: Settings,
    out: Path,
    progress: Callable[[Counts], None],
    picture_name: str = DEFAULT_TEMPLATE,
    early: tuple[TetheredProcess, int] | None = None,
) -> RunResult:
    """Render a manifest into `out`. `progress` gets the job's counts several times a second.

    `early` is the worker's process from `start_warm`, where it runs already.

    Raises `ManifestError` if rows are bad, `ServiceError` if the worker keeps ending, and
    `UsageError` if the folder can't be used, or the job is for other workers. Nothing is created
    before the first rows of the manifest, the model and the template of the names were found good,
    and a later bad row leaves nothing in a new folder. Ctrl-C drains the worker and returns with
    `interrupted`.
    """
    out = out.absolute()
    check_takes(settings, route=request.route, needs=request.needs)
    with request.open(settings) as source:
        columns = check_first_rows(request, source, settings)
        check_columns(PictureNames(picture_name), columns)
        settings = _with_certificates(settings)
        worker = LocalWorker(settings, out / WORKER_LOG, early)
        with run_folder(out) as folder, closing(Database.from_settings(settings)) as database:
            return _run(request, source, worker, database, folder, progress, picture_name)


def _run(
    request: SubmissionRequest,
    source: Source,
    worker: LocalWorker,
    database: Database,
    folder: RunFolder,
    progress: Callable[[Counts], None],
    picture_name: str,
) -> RunResult:
    interrupted, out, settings = False, folder.path, worker.settings
    # The worker first: it takes seconds to import, and the others need the other core. It ends
    # before its broker does.
    with (
        worker,
        _opened(folder, database, settings) as valkey,
        worker.drained(),
    ):
        settings = settings.model_copy(update={"broker_url": SecretStr(valkey.url)})
        _release_leftovers(database, settings)
        with _emptied_if_refused(folder, database, valkey):
            submission = submit(request, settings=settings, database=database, source=source)
        check_takes(settings, route=submission.route, needs=submission.needs)
        before = _counts(database, submission.job_id)
        started = time.monotonic()
        pace = _Pace(before.done)
        if before.pending:
            few = _for_few(settings, before.pending)
            listeners = (pace.add, progress)
            interrupted = not _rendered(database, few, submission.job_id, worker, listeners)
        seconds = time.monotonic() - started
        # Nothing more will come: the rest is done while the worker ends.
        if _counts(database, submission.job_id).pending:
            worker.wait()
        files = _leave_files(
            database, settings, submission, out, picture_name, with_sheet=not interrupted
        )
    after = _counts(database, submission.job_id)
    rendered = after.done - before.done
    return RunResult(
        job_id=submission.job_id,
        job_name=submission.job_name,
        requested=after.requested,
        rendered=rendered,
        reused=submission.reused,
        done=after.done,
        dead=after.dead,
        seconds=seconds,
        images_per_second=pace.images_per_second,
        database=settings.database_url.get_secret_value(),
        output=out,
        contact_sheet=files.contact_sheet,
        undrawn=files.undrawn,
        pictures=files.pictures,
        foreign_syntax=submission.foreign_syntax,
        without_effect=submission.without_effect,
        columns=submission.columns,
        interrupted=interrupted,
    )


def _with_certificates(settings: Settings) -> Settings:
    """The settings, with a folder of certificates for all runs of this user."""
    if settings.certificates is not None:
        return settings
    with suppress(RuntimeError):  # a user without a home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache.absolute() / "imagemill" / "certificates"
        return settings.model_copy(update={"certificates": folder})
    return settings


@contextmanager
def _opened(folder: RunFolder, database: Database, settings: Settings) -> Iterator[EmbeddedValkey]:
    """Bring the folder's database up to date; the broker runs for the block."""
    migrate(database)
    record_store(database, open_storage(settings))
    with EmbeddedValkey(folder.path / BROKER_FOLDER) as valkey:
        yield valkey


@contextmanager
def _emptied_if_refused(
    folder: RunFolder, database: Database, valkey: EmbeddedValkey
) -> Iterator[None]:
    """A `UsageError` in the block removes what this run has made, unless another job is there."""
    try:
        yield
    except UsageError:
        if first_job(database) is None:
            database.close()
            folder.empty()
            valkey.stop(remove=BROKER_FOLDER not in folder.before)
        raise


class _Pace:
    """Images per second from the first finished batch on: loading a model does not count.

    The images of a batch finish together, so those of the first one tell nothing, and the others
    tell enough only if they are as many.
    """

    def __init__(self, done: int) -> None:
        self._done = self._before = done
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def add(self, counts: Counts) -> None:
        """Note how many images are done now."""
        if counts.done == self._done:
            return
        self._done = counts.done
        self._last = (time.monotonic(), counts.done)
        if self._first is None:
            self._first = self._last
        elif self._last[0] - self._first[0] < ONE_BATCH_SECONDS:
            self._first = (self._first[0], counts.done)

    @property
    def images_per_second(self) -> float | None:
        """The rate; None until as many images have finished as in the first batch."""
        if self._first is None or self._last[1] - self._first[1] < self._first[1] - self._before:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


def _rendered(
    database: Database,
    settings: Settings,
    job_id: int,
    worker: LocalWorker,
    listeners: Iterable[Callable[[Counts], None]],
) -> bool:
    """Let the worker render the job, and tell it to stop; False if Ctrl-C has interrupted it."""
    try:
        dispatcher = Dispatcher(database, settings)
        worker.work(settings)
        _watch(database, job_id, dispatcher, worker, listeners)
        worker.drain()
        dispatcher.send_notifications()
    except KeyboardInterrupt:
        worker.drain()
        return False
    return True


def _for_few(settings: Settings, pending: int) -> Settings:
    """The settings, with one child where one batch holds all images.

    A second child would load torch and the model for nothing, while the first waits for the same
    cores and disk.
    """
    if settings.children is None and pending <= _FEW_IMAGES:
        return settings.model_copy(update={"children": 1})
    return settings


def _watch(
    database: Database,
    job_id: int,
    dispatcher: Dispatcher,
    worker: LocalWorker,
    listeners: Iterable[Callable[[Counts], None]],
) -> None:
    """Dispatch and report until the job is over."""
    next_round, to_finish = 0.0, True
    seen, moved_at = Counts(), time.monotonic()
    while True:
        if time.monotonic() >= next_round:
            dispatcher.run_once()
            next_round = time.monotonic() + ROUND_SECONDS
        with database.reading() as session:
            state = session.get_one(Job, job_id).state
            counts = count_images(session, [job_id])[job_id]
            # Where all that is left waits out a retry, nothing should move.
            at_work = live_shifts(session) > 0 or not due_images(session)
        for listen in listeners:
            listen(counts)
        if state not in _STILL_OPEN:
            return
        if to_finish and not counts.pending:
            # The next round finishes the job, and need not be waited for.
            next_round, to_finish = 0.0, False
            continue
        worker.check()
        if at_work or counts != seen or state == JobState.PAUSED:
            seen, moved_at = counts, time.monotonic()
        elif time.monotonic() - moved_at > _STALLED_SECONDS:
            raise ServiceError(
                f"nothing was rendered for {_STALLED_SECONDS:.0f} s; {worker.last_error()}"
            )
        time.sleep(_LOOK_SECONDS)


def _release_leftovers(database: Database, settings: Settings) -> None:
    """Release what a killed run held. This run has locked the folder, so no shift is alive."""
    policy = RetryPolicy.from_settings(settings)
    database.run(lambda session: shifts.rescue(session, policy=policy, everything=True))


def _counts(database: Database, job_id: int) -> Counts:
    with database.reading() as session:
        return count_images(session, [job_id])[job_id]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """What a run leaves for people to look at."""

    contact_sheet: Path | None
    undrawn: frozenset[str]
    pictures: NamedPictures


def _leave_files(
    database: Database,
    settings: Settings,
    submission: Submission,
    out: Path,
    picture_name: str,
    *,
    with_sheet: bool,
) -> _Files:
    suffix = job_suffix(database, submission.job_id)
    sheet, undrawn = None, frozenset[str]()
    if with_sheet:
        file = out / f"{CONTACT_SHEET}{suffix}.png"
        sheet, undrawn = _write_sheet(database, settings, submission, file)
    pictures = name_pictures(
        database,
        submission.job_id,
        store=out / OBJECTS_FOLDER,
        folder=out / f"{PICTURES_FOLDER}{suffix}",
        names=PictureNames(picture_name, rows=submission.rows),
    )
    return _Files(contact_sheet=sheet, undrawn=undrawn, pictures=pictures)


def _write_sheet(
    database: Database, settings: Settings, submission: Submission, file: Path
) -> tuple[Path | None, frozenset[str]]:
    """The sheet, and the characters that no font here has."""
    pages = job_pages(database, open_storage(settings), submission.job_id, limit=SHEET_IMAGES)
    for page in pages:
        if page.images == 0:
            break
        with whole_file(file) as stream:
            page.picture.save(stream, "PNG")
        return file, page.undrawn
    return None, frozenset()

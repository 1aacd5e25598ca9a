"""Submitting a manifest: it is read as a stream, loaded in chunks, and opened by one statement.

Nothing of a job can be claimed before all its rows were read and found good. So a bad row on line
900,000 means that nothing is queued. Equal submissions are the same job: a producer that was killed
goes on where it stopped when the same manifest is submitted again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import BrokerError, UsageError
from imagemill.db.labels import labels_of
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.api.uploads import touch_upload
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.jobs.lifecycle import NewJob
from imagemill.db.queries.labels import set_labels
from imagemill.db.queries.notifications import add_webhooks
from imagemill.db.queries.tallies import count_images
from imagemill.db.settings import Settings
from imagemill.db.specs import canonical_json, sha256_of
from imagemill.db.states import JobState
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.expansion.wildcards import fingerprints
from imagemill.scheduler_jobs.manifest import ColumnReport, ColumnReports, Problem, Source
from imagemill.scheduler_jobs.submit.first_rows import check_first_rows
from imagemill.scheduler_jobs.submit.input_files import InputFiles
from imagemill.scheduler_jobs.submit.interpreter import tuned_for_rows
from imagemill.scheduler_jobs.submit.kept_options import kept_options
from imagemill.scheduler_jobs.submit.loader import JobLoader
from imagemill.scheduler_jobs.submit.planning.idle_values import IdleRows
from imagemill.scheduler_jobs.submit.planning.planned_rows import (
    PlannedRow,
    RefusedRow,
    chunks,
    plan_rows,
)
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import ForeignRows
from imagemill.scheduler_jobs.submit.request import NAME_CHARACTERS, SubmissionRequest

if TYPE_CHECKING:
    from imagemill.db.broker.wake_ups import Tokens

log = logging.getLogger(__name__)

_LOADED = (JobState.OPEN, JobState.PAUSED, JobState.FINISHED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What submitting did. `created` is False where the job was there already.

    `columns` is empty where no row was read, because the job was loaded before.
    """

    job_id: int
    job_name: str
    created: bool
    route: str
    needs: Mapping[str, str]
    rows: int
    requested: int
    ready: int
    reused: int
    bad_rows: int
    problems: tuple[Problem, ...]
    foreign_syntax: tuple[ForeignRows, ...]
    without_effect: tuple[IdleRows, ...]
    columns: tuple[ColumnReport, ...]
    nothing_to_do: bool


def check_and_submit(
    request: SubmissionRequest,
    *,
    settings: Settings,
    database: Database,
    progress: Callable[[int], None] | None = None,
) -> Submission:
    """As `submit`, once the first rows were found good: a bad header leaves no job behind."""
    with request.open(settings) as source:
        check_first_rows(request, source, settings)
        return submit(
            request, settings=settings, database=database, progress=progress, source=source
        )


def submit(
    request: SubmissionRequest,
    *,
    settings: Settings,
    database: Database,
    progress: Callable[[int], None] | None = None,
    source: Source | None = None,
) -> Submission:
    """Record every image that the manifest asks for, and wake the workers.

    `progress` hears the number of rows loaded so far. A `ManifestError` carries every problem;
    then nothing is queued. A broker that is away loses nothing: the dispatcher wakes the workers.
    `source` is the manifest where it is open already; it stays open.
    """
    with ExitStack() as opened:
        opened.enter_context(tuned_for_rows())
        if source is None:
            source = opened.enter_context(request.open(settings))
        tokens = opened.enter_context(closing(_tokens(settings)))
        new = _new_job(request, source, settings)
        job, created = database.run(lambda session: _record_job(session, new, request))
        if not created and (kept := kept_options(request, job)) is not None:
            log.warning("%s", kept)
        loader = JobLoader(job.id, request, database, source.label)
        reports = ColumnReports()
        if job.state == JobState.LOADING:
            rows = plan_rows(
                request,
                source,
                settings,
                inputs=_inputs(request, settings, database),
                reports=reports,
            )
            if _load_and_open(job.id, loader, rows, database, progress):
                _wake(tokens, job.route)
            else:
                created = False
    return _submission(database, job.id, loader, reports, created=created)


def _load_and_open(
    job_id: int,
    loader: JobLoader,
    rows: Iterator[PlannedRow | RefusedRow],
    database: Database,
    progress: Callable[[int], None] | None,
) -> bool:
    """Load the rows and open their job; False if another process has done that meanwhile."""
    try:
        for loaded in loader.add_all(chunks(rows)):
            if progress is not None:
                progress(loaded)
    except UsageError:
        if not _is_loaded(database, job_id):
            raise
        log.warning("another process submitted this manifest at the same moment")
        return False
    if loader.is_refused or loader.is_empty:
        loader.reject()
    database.run(lambda session: lifecycle.open_job(session, job_id))
    return True


def _inputs(request: SubmissionRequest, settings: Settings, database: Database) -> InputFiles:
    """Keeps input files, and lets nobody sweep an uploaded one that is used again."""

    def used(digest: str) -> None:
        database.run(lambda session: touch_upload(session, digest))

    return InputFiles(settings, keep=True, given=request.inputs, used=used)


def _record_job(session: Session, new: NewJob, request: SubmissionRequest) -> tuple[Job, bool]:
    job, created = lifecycle.find_or_create(session, new)
    set_labels(session, job.id, request.labels)
    add_webhooks(session, job.id, request.notify)
    return job, created


def _is_loaded(database: Database, job_id: int) -> bool:
    """Whether somebody else has loaded and opened the job that this process was loader."""
    with database.reading() as session:
        return session.get_one(Job, job_id).state in _LOADED


def _new_job(request: SubmissionRequest, source: Source, settings: Settings) -> NewJob:
    fingerprint = source.fingerprint()
    defaults = request.defaults.model_dump(mode="json", exclude_none=True)
    default_model = load_registry(settings).find(request.defaults.model or settings.default_model)
    identity = {
        "manifest": fingerprint,
        "defaults": defaults,
        "seed": request.seed,
        "columns": dict(request.columns),
        "format": request.format,
        "skip_bad_rows": request.skip_bad_rows,
        "expansion": _expansion_identity(request),
        "weights": weights_digest(default_model),
    }
    if request.literal_words:
        identity["literal_words"] = True
    if request.strict:
        identity["strict"] = True
    return NewJob(
        name=request.name or source.stem[:NAME_CHARACTERS] or "job",
        identity=sha256_of(canonical_json(identity)),
        manifest=source.label,
        manifest_sha256=fingerprint,
        defaults=defaults,
        seed=request.seed,
        priority=request.priority,
        owner=request.owner,
        weight=request.weight,
        max_workers=request.max_workers,
        needs=request.needs,
        deadline=request.deadline,
        route=request.route,
    )


def _expansion_identity(request: SubmissionRequest) -> dict[str, object] | None:
    """What expansion makes of the manifest, wildcard files included; None where nothing is."""
    if request.variants == "off" and not request.grid:
        return None
    files = {} if request.wildcards is None else fingerprints(request.wildcards)
    return {
        "variants": request.variants,
        "draws": request.draws,
        "grid": list(request.grid),
        "wildcards": files,
    }


def _submission(
    database: Database, job_id: int, loader: JobLoader, reports: ColumnReports, *, created: bool
) -> Submission:
    with database.reading() as session:
        job = session.get_one(Job, job_id)
        counts = count_images(session, [job_id])[job_id]
    return Submission(
        job_id=job_id,
        job_name=job.name,
        created=created,
        route=job.route,
        needs=labels_of(job.needs),
        rows=job.rows_loaded,
        requested=counts.requested,
        ready=counts.ready,
        reused=counts.done if created else 0,
        bad_rows=job.bad_rows,
        problems=tuple(loader.findings.problems),
        foreign_syntax=loader.foreign.found(),
        without_effect=loader.idle.found(),
        columns=reports.found(),
        nothing_to_do=counts.pending == 0,
    )


def _tokens(settings: Settings) -> "Tokens":
    """Tokens for workers, not connected yet. Raises `SettingsError` if there is no such broker."""
    # Celery takes 0.2 s to import, which `plan` need not wait for.
    from imagemill.db.broker.wake_ups import Tokens  # noqa: PLC0415  # see above

    return Tokens(settings)


def _wake(tokens: "Tokens", route: str) -> None:
    """Publish the first tokens; the dispatcher publishes them later if the broker is away."""
    from imagemill.db.broker.wake_ups import FIRST_TOKENS  # noqa: PLC0415  # imported above

    try:
        tokens.publish(route, FIRST_TOKENS)
    except BrokerError as error:
        log.warning("the job is recorded; workers start when the broker is back: %s", error)

"""Submitting a manifest: read as a stream, loaded in chunks, opened with one statement.

Nothing of a job can be claimed before every row of it was read and found good, so a bad row on
line 900,000 queues nothing. A killed producer goes on where it stopped when the same manifest is
submitted again, because equal submissions are the same job.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import NoReturn

from sqlalchemy.orm import Session

from db.broker import Tokens
from db.database import Database
from db.errors import BrokerError, ManifestError
from db.queries import jobs, objects
from db.queries.jobs import NewJob, NewRow
from db.queries.tallies import count_images
from db.registry import load_registry, weights_digest
from db.settings import Settings
from db.specs import ImageSpec, canonical_json, sha256_of
from db.states import JobState
from db.tables import Job
from scheduler_jobs.input_files import InputFiles
from scheduler_jobs.manifest import (
    Limits,
    ManifestRow,
    Parameters,
    Problem,
    Source,
    open_source,
    read_manifest,
)
from scheduler_jobs.planner import PlannedRow, Planner

log = logging.getLogger(__name__)

CHUNK_ROWS = 1000
"""Rows inserted in one transaction."""

CHUNK_IMAGES = 5000
"""A chunk ends early when its rows ask for this many images."""

FIRST_TOKENS = 4
"""Tokens a submit publishes; the dispatcher tops up."""

SHOWN_LONG_PROMPTS = 20

MAX_PROBLEMS = 100_000
"""Problems kept in memory; beyond, bad rows are only counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionRequest:
    """What a person asks for: a manifest (path, `-` or `s3://…`) and how to read it."""

    manifest: str
    name: str | None = None
    defaults: Parameters = field(default_factory=Parameters)
    seed: int = 0
    priority: int = 0
    route: str = "default"
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    skip_bad_rows: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedGroup:
    """How many images may share forward passes."""

    model: str
    width: int
    height: int
    guided: bool
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What submitting would do. `reused` is None where no database was asked."""

    rows: int
    images: int
    bad_rows: int
    problems: tuple[Problem, ...]
    groups: tuple[PlannedGroup, ...]
    long_prompts: int
    long_prompt_rows: tuple[tuple[int, str], ...]
    reused: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What submitting did. `created` is False where the job was there already."""

    job_id: int
    job_name: str
    created: bool
    rows: int
    requested: int
    ready: int
    reused: int
    bad_rows: int
    problems: tuple[Problem, ...]
    nothing_to_do: bool


def plan(request: SubmissionRequest, *, settings: Settings, database: Database | None) -> Plan:
    """Read and settle every row, and change nothing.

    With a database, also count the images whose files are there already.
    """
    started = time.monotonic()
    groups: Counter[tuple[str, int, int, bool]] = Counter()
    keys = _Keys()
    findings = _Findings()
    long_rows: list[tuple[int, str]] = []
    rows = long_prompts = reused = 0
    with open_source(request.manifest, settings) as source:
        for chunk in _chunks(_settled_rows(request, source, settings)):
            requests: list[str] = []
            for settled in keys.checked(chunk, source.name):
                if isinstance(settled, BadRow):
                    findings.add(settled)
                    continue
                rows += 1
                if settled.planned.cut is not None:
                    long_prompts += settled.planned.parameters.count
                    if len(long_rows) < SHOWN_LONG_PROMPTS:
                        long_rows.append((settled.number, settled.planned.cut))
                for spec in settled.specs(request.seed):
                    groups[spec.model, spec.width, spec.height, spec.guided] += 1
                    requests.append(spec.request_key())
            if database is not None:
                with database.reading() as session:
                    known = objects.find_objects(session, requests)
                reused += sum(key in known for key in requests)
    return Plan(
        rows=rows,
        images=sum(groups.values()),
        bad_rows=findings.bad_rows,
        problems=tuple(findings.problems),
        groups=tuple(
            PlannedGroup(model=model, width=width, height=height, guided=guided, images=count)
            for (model, width, height, guided), count in groups.most_common()
        ),
        long_prompts=long_prompts,
        long_prompt_rows=tuple(long_rows),
        reused=None if database is None else reused,
        seconds=time.monotonic() - started,
    )


def submit(
    request: SubmissionRequest,
    *,
    settings: Settings,
    database: Database,
    progress: Callable[[int], None] | None = None,
) -> Submission:
    """Record every image that the manifest asks for, and wake the workers.

    `progress` hears the number of rows loaded so far. A `ManifestError` carries every problem;
    then nothing is queued. A broker that is away loses nothing: the dispatcher wakes the workers.
    """
    with open_source(request.manifest, settings) as source:
        new = _new_job(request, source, settings)
        job, created = database.run(lambda session: jobs.find_or_create(session, new))
        loading = _Loading(job.id, request, database, source.name)
        if job.state == JobState.LOADING:
            for chunk in _chunks(_settled_rows(request, source, settings, keep_inputs=True)):
                loading.add(chunk)
                if progress is not None:
                    progress(loading.rows)
            if loading.hopeless:
                loading.reject()
            database.run(lambda session: jobs.open_job(session, job.id))
            _wake(settings, request.route)
    return _submission(database, job.id, created=created, findings=loading.findings)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that asks for nothing, with everything that is wrong with it."""

    number: int | None
    line: int | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SettledRow:
    """A good row with its place among the rows of the same key base."""

    planned: PlannedRow
    occurrence: int = 0

    @property
    def number(self) -> int:
        """The row's 1-based number in the manifest."""
        return self.planned.row.number

    def specs(self, job_seed: int) -> Iterator[ImageSpec]:
        """The row's images."""
        return self.planned.specs(job_seed=job_seed, occurrence=self.occurrence)


class _Findings:
    """Problems so far: all of them, up to a bound on memory."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.bad_rows = 0
        self.fatal = False

    def add(self, bad: BadRow) -> None:
        self.bad_rows += 1
        # Damage to the file itself: what follows it was never seen, so it can't be skipped.
        self.fatal = self.fatal or bad.number is None
        if len(self.problems) < MAX_PROBLEMS:
            self.problems += bad.problems


class _Keys:
    """Counts equal keys, on top of what earlier chunks (in the database, or here) held."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def checked(self, chunk: list[SettledRow | BadRow], file: str) -> Iterator[SettledRow | BadRow]:
        """The chunk with each row's occurrence; a repeated `id` makes a row bad."""
        for settled in chunk:
            if isinstance(settled, BadRow):
                yield settled
                continue
            base = settled.planned.key_base
            occurrence = self._seen[base]
            self._seen[base] += 1
            row = settled.planned.row
            if row.key is None or occurrence == 0:
                yield replace(settled, occurrence=occurrence)
                continue
            problem = Problem(
                file=file,
                row=row.number,
                line=row.line,
                column="id",
                found=f"{row.key!r}, which an earlier row has",
                allowed="an id of its own for every row",
            )
            yield BadRow(number=row.number, line=row.line, problems=(problem,))

    @classmethod
    def after(cls, stored: Counter[str]) -> "_Keys":
        """Keys that continue from counts in the database."""
        keys = cls()
        keys._seen = stored
        return keys


def _settled_rows(
    request: SubmissionRequest, source: Source, settings: Settings, *, keep_inputs: bool = False
) -> Iterator[SettledRow | BadRow]:
    """Every row of the manifest, in order, settled or with all its problems."""
    planner = Planner(
        registry=load_registry(settings),
        settings=settings,
        defaults=request.defaults,
        inputs=InputFiles(settings, keep=keep_inputs),
        source_name=source.name,
    )
    found = read_manifest(
        source,
        columns=request.columns,
        limits=Limits.from_settings(settings),
        format=request.format,
    )
    for (number, line), items in groupby(found, key=_place):
        problems: list[Problem] = []
        for item in items:
            settled = planner.plan(item) if isinstance(item, ManifestRow) else item
            if isinstance(settled, PlannedRow):
                yield SettledRow(planned=settled)
            else:
                problems.append(settled)
        if problems:
            yield BadRow(number=number, line=line, problems=tuple(problems))


def _place(item: ManifestRow | Problem) -> tuple[int | None, int | None]:
    return (item.number if isinstance(item, ManifestRow) else item.row), item.line


def _chunks(rows: Iterator[SettledRow | BadRow]) -> Iterator[list[SettledRow | BadRow]]:
    """Rows by the thousand, less where they ask for many images each."""
    chunk: list[SettledRow | BadRow] = []
    images = 0
    for row in rows:
        chunk.append(row)
        images += 1 if isinstance(row, BadRow) else row.planned.parameters.count
        if len(chunk) >= CHUNK_ROWS or images >= CHUNK_IMAGES:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk


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
        "weights": weights_digest(default_model, settings),
    }
    return NewJob(
        name=request.name or PurePosixPath(source.name).name.split(".")[0] or "job",
        identity=sha256_of(canonical_json(identity)),
        manifest=source.name,
        manifest_sha256=fingerprint,
        defaults=defaults,
        seed=request.seed,
        priority=request.priority,
        route=request.route,
    )


class _Loading:
    """Loading a job: chunk by chunk, each in one transaction, models registered as they appear."""

    def __init__(
        self, job_id: int, request: SubmissionRequest, database: Database, file: str
    ) -> None:
        self.rows = 0
        self.findings = _Findings()
        self._job_id = job_id
        self._request = request
        self._database = database
        self._file = file

    def add(self, chunk: list[SettledRow | BadRow]) -> None:
        """Insert a chunk's rows that are not in the database yet."""
        if self.hopeless:
            for settled in chunk:
                self._note(settled)
            return
        checked = self._database.run(lambda session: self._insert(session, chunk))
        for settled in checked:
            self._note(settled)

    @property
    def hopeless(self) -> bool:
        """Whether the job will be rejected: then rows are only read for their problems."""
        return bool(self.findings.problems) and (
            self.findings.fatal or not self._request.skip_bad_rows
        )

    def reject(self) -> NoReturn:
        """Drop what was loaded, and raise the `ManifestError` that says why."""
        count = self.findings.bad_rows
        message = f"{self._file}: {count} bad {'row' if count == 1 else 'rows'}"
        self._database.run(lambda session: jobs.reject(session, self._job_id, message=message))
        raise ManifestError(message, problems=tuple(self.findings.problems))

    def _note(self, settled: SettledRow | BadRow) -> None:
        self.rows += 1
        if isinstance(settled, BadRow):
            self.findings.add(settled)

    def _insert(
        self, session: Session, chunk: list[SettledRow | BadRow]
    ) -> list[SettledRow | BadRow]:
        job = jobs.lock_loading(session, self._job_id)
        known = [row for row in chunk if (row.number or 0) <= job.rows_loaded]
        chunk = chunk[len(known) :]
        bases = {row.planned.key_base for row in chunk if isinstance(row, SettledRow)}
        keys = _Keys.after(jobs.count_key_bases(session, job.id, bases))
        checked = list(keys.checked(chunk, self._file))
        bad = [row for row in checked if isinstance(row, BadRow)]
        if bad and not self._request.skip_bad_rows:
            return [*known, *checked]
        ids = jobs.insert_rows(
            session,
            job,
            [_new_row(row) for row in checked],
            [row.occurrence if isinstance(row, SettledRow) else 0 for row in checked],
        )
        self._register_models(session, checked)
        images = [
            (row_id, sample, spec)
            for row_id, row in zip(ids, checked, strict=True)
            if isinstance(row, SettledRow)
            for sample, spec in enumerate(row.specs(self._request.seed))
        ]
        jobs.insert_images(session, job, images)
        job.rows_loaded = max((row.number or 0 for row in checked), default=job.rows_loaded)
        job.bad_rows += len(bad)
        return [*known, *checked]

    def _register_models(self, session: Session, rows: Iterable[SettledRow | BadRow]) -> None:
        models = {
            row.planned.model.weights_digest: row.planned.model
            for row in rows
            if isinstance(row, SettledRow)
        }
        for _, model in sorted(models.items()):
            jobs.register_model(
                session,
                name=model.entry.name,
                weights_digest=model.weights_digest,
                source=model.entry.source or model.entry.name,
                document={"defaults": dict(model.entry.defaults)},
            )


def _new_row(row: SettledRow | BadRow) -> NewRow:
    if isinstance(row, BadRow):
        return NewRow(
            number=row.number or 0,
            line=row.line or 0,
            verbatim="",
            extras={},
            key_base=None,
            problem="\n".join(str(problem) for problem in row.problems),
        )
    given = row.planned.row
    return NewRow(
        number=given.number,
        line=given.line,
        verbatim=given.verbatim,
        extras=given.extras,
        key_base=row.planned.key_base,
    )


def _submission(
    database: Database, job_id: int, *, created: bool, findings: _Findings
) -> Submission:
    with database.reading() as session:
        job = session.get_one(Job, job_id)
        counts = count_images(session, [job_id])[job_id]
    return Submission(
        job_id=job_id,
        job_name=job.name,
        created=created,
        rows=job.rows_loaded,
        requested=counts.requested,
        ready=counts.ready,
        reused=counts.done if created else 0,
        bad_rows=job.bad_rows,
        problems=tuple(findings.problems),
        nothing_to_do=counts.pending == 0,
    )


def _wake(settings: Settings, route: str) -> None:
    """Publish the first tokens; the dispatcher publishes them later if the broker is away."""
    try:
        tokens = Tokens(settings)
        tokens.publish(route, FIRST_TOKENS)
        tokens.close()
    except BrokerError as error:
        log.warning("the job is recorded; workers start when the broker is back: %s", error)

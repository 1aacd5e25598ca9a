"""What submitting a manifest would do: every row is read and planned, and nothing is changed."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from imagemill.db.database import Database
from imagemill.db.documents import JSON
from imagemill.db.queries.fleet.memory import TooLarge
from imagemill.db.queries.fleet.rates import Kind
from imagemill.db.queries.pictures import objects
from imagemill.db.settings import Settings
from imagemill.db.shared_specs import Request, SharedSpec
from imagemill.db.specs import ImageSpec
from imagemill.scheduler_jobs.manifest import ColumnReport, ColumnReports, Problem, RowText
from imagemill.scheduler_jobs.submit.first_rows import check_model
from imagemill.scheduler_jobs.submit.forecast import Forecast, forecast, too_large
from imagemill.scheduler_jobs.submit.interpreter import tuned_for_rows
from imagemill.scheduler_jobs.submit.planning.idle_values import IdleCounts, IdleRows
from imagemill.scheduler_jobs.submit.planning.occurrences import Occurrences
from imagemill.scheduler_jobs.submit.planning.planned_rows import (
    Findings,
    PlannedRow,
    RefusedRow,
    RowKeys,
    chunks,
    plan_rows,
)
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import ForeignCounts, ForeignRows
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

SHOWN_LONG_PROMPTS = 20
"""How many of the rows with a prompt that is cut are kept to be shown."""


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
    """What submitting would do. `reused` and `unmeasured` are None where no database was asked."""

    rows: int
    images: int = field(metadata={JSON: "requested"})
    bad_rows: int
    readable: bool
    """Whether the manifest was read to its end; --skip-bad-rows skips no damage to a file."""
    problems: tuple[Problem, ...]
    groups: tuple[PlannedGroup, ...]
    long_prompts: int
    long_prompt_rows: tuple[RowText, ...]
    foreign_syntax: tuple[ForeignRows, ...]
    without_effect: tuple[IdleRows, ...]
    columns: tuple[ColumnReport, ...]
    reused: int | None
    forecasts: tuple[Forecast, ...]
    """What the other images would take, by device, as far as it was measured before."""
    unmeasured: int | None
    """Images of a model, size, steps and sampler of which none was rendered before."""
    too_large: tuple[TooLarge, ...]
    """Images that no live worker's card has the memory for."""
    seconds: float


class _Sums:
    """What the rows of a manifest come to."""

    def __init__(self) -> None:
        self.rows = 0
        self.findings = Findings()
        self.foreign = ForeignCounts()
        self.idle = IdleCounts()
        self.long_prompts = 0
        self.long_prompt_rows: list[RowText] = []
        self.groups: Counter[tuple[str, int, int, bool]] = Counter()
        self.reused = 0
        self.work: Counter[Kind] = Counter()
        """The images that have no file yet."""
        self.group_examples: dict[str, ImageSpec] = {}
        """An image of each group with work, by the group's key."""

    def add(self, row: PlannedRow | RefusedRow, job_seed: int) -> Sequence[Request]:
        """Note a row; returns its images."""
        if isinstance(row, RefusedRow):
            self.findings.add(row)
            return ()
        self.rows += 1
        self.foreign.add(row.foreign, row.excerpt)
        self.idle.add(row.unguided, row.excerpt)
        self._add_long_prompts(row)
        requests = row.requests(job_seed)
        for each in requests:
            spec = each.shared.example
            self.groups[spec.model, spec.width, spec.height, spec.guided] += 1
        return requests

    def _add_long_prompts(self, row: PlannedRow) -> None:
        for cell in row.cells:
            if cell.cut is None:
                continue
            self.long_prompts += cell.count
            if len(self.long_prompt_rows) < SHOWN_LONG_PROMPTS:
                self.long_prompt_rows.append(row.excerpt(cell.cut or ""))

    def add_files(self, requests: Sequence[Request], database: Database) -> None:
        """Note which of these images have a file already, and which are work."""
        missing = _missing(database, requests)
        self.reused += len(requests) - missing.total()
        for shared, count in missing.items():
            self.work[Kind.of(shared.example)] += count
            self.group_examples[shared.group_key] = shared.example


def plan(request: SubmissionRequest, *, settings: Settings, database: Database | None) -> Plan:
    """Read and plan every row, and change nothing.

    With a database, also count the images whose files are there already. Raises `ModelError` if
    the job's own model can't be used.
    """
    started = time.monotonic()
    if request.defaults.model is not None:
        check_model(request.defaults.model, settings)
    sums, reports = _Sums(), ColumnReports()
    with request.open(settings) as source, closing(Occurrences()) as seen, tuned_for_rows():
        keys = RowKeys(seen.add)
        for chunk in chunks(plan_rows(request, source, settings, reports=reports)):
            requests: list[Request] = []
            for row in keys.checked(chunk, source.name):
                requests += sums.add(row, request.seed)
            if database is not None:
                sums.add_files(requests, database)
    forecasts, unmeasured = _forecast(sums.work, database, settings)
    return Plan(
        rows=sums.rows,
        images=sums.groups.total(),
        bad_rows=sums.findings.bad_rows,
        readable=not sums.findings.fatal,
        problems=tuple(sums.findings.problems),
        groups=_planned_groups(sums.groups),
        long_prompts=sums.long_prompts,
        long_prompt_rows=tuple(sums.long_prompt_rows),
        foreign_syntax=sums.foreign.found(),
        without_effect=sums.idle.found(),
        columns=reports.found(),
        reused=None if database is None else sums.reused,
        forecasts=forecasts,
        unmeasured=unmeasured,
        too_large=too_large(sums.work, sums.group_examples, database, request),
        seconds=time.monotonic() - started,
    )


def _planned_groups(groups: Counter[tuple[str, int, int, bool]]) -> tuple[PlannedGroup, ...]:
    """The groups, the largest first."""
    return tuple(
        PlannedGroup(model=model, width=width, height=height, guided=guided, images=count)
        for (model, width, height, guided), count in groups.most_common()
    )


def _missing(database: Database, requests: Sequence[Request]) -> Counter[SharedSpec]:
    """How many of these requests have no file yet, by what they share."""
    with database.reading() as session:
        files = objects.find_files(session, [each.keys() for each in requests])
    return Counter(each.shared for place, each in enumerate(requests) if place not in files)


def _forecast(
    work: Counter[Kind], database: Database | None, settings: Settings
) -> tuple[tuple[Forecast, ...], int | None]:
    return ((), None) if database is None else forecast(work, database=database, settings=settings)

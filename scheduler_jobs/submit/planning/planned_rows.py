"""Planned rows: read, expanded, planned, and counted among the rows of the same key."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby

from imagemill.db.errors import ManifestError
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.jobs.job_rows import NewRow
from imagemill.db.seeds import prompt_hash, row_key
from imagemill.db.settings import Settings
from imagemill.db.shared_specs import Request
from imagemill.scheduler_jobs.expansion import Expansion, Templates, expand, parse_grid, seed_base
from imagemill.scheduler_jobs.manifest import (
    ColumnReports,
    Limits,
    ManifestRow,
    Problem,
    RowText,
    Source,
    read_manifest,
)
from imagemill.scheduler_jobs.manifest.problems import shown
from imagemill.scheduler_jobs.submit.input_files import InputFiles
from imagemill.scheduler_jobs.submit.planning.occurrences import Occurrences
from imagemill.scheduler_jobs.submit.planning.planned_cells import PlannedCell
from imagemill.scheduler_jobs.submit.planning.planner import Planner
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import (
    WAYS_OUT,
    ForeignSyntax,
    find_foreign_syntax,
    may_be_foreign,
)
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

CHUNK_ROWS = 5000
"""How many rows one transaction inserts."""

CHUNK_IMAGES = 5000
"""A chunk ends early when its rows ask for this many images."""

MAX_PROBLEMS = 100_000
"""How many problems are kept in memory. Further bad rows are only counted."""


@dataclass(kw_only=True, slots=True)
class RefusedRow(NewRow):
    """A row that asks for nothing, with everything that is wrong with it.

    `fatal` says that the file itself is damaged: nothing after this place was seen.
    """

    problems: tuple[Problem, ...]
    fatal: bool = False

    @classmethod
    def because_of(
        cls, problems: Iterable[Problem], *, number: int | None, line: int | None
    ) -> "RefusedRow":
        """A row with these problems. Without a number it stands for damage to the file itself."""
        problems = tuple(problems)
        return cls(
            number=number or 0,
            line=line or 0,
            verbatim="",
            extras={},
            key_base=None,
            problem="\n".join(str(problem) for problem in problems),
            problems=problems,
            fatal=number is None,
        )


@dataclass(kw_only=True, slots=True)
class PlannedRow(NewRow):
    """A good row, expanded and planned, with its place among the rows of the same key base."""

    key: str | None
    cells: tuple[PlannedCell, ...]
    """What the row was expanded to; one cell, where nothing was."""
    foreign: tuple[ForeignSyntax, ...] = ()
    """Other tools' syntax in its prompts."""
    place: tuple[str, int] | None = None
    """The row's file and its number there, if the manifest has several files."""
    asked: tuple[Request, ...] | None = None
    """The row's images, kept once they were asked for. They depend on its occurrence."""

    @classmethod
    def of(
        cls, row: ManifestRow, cells: Iterable[PlannedCell], *, foreign: tuple[ForeignSyntax, ...]
    ) -> "PlannedRow":
        """A row of the manifest with what it was expanded to."""
        cells = tuple(cells)
        expanded = any(cell.row.prompt != row.prompt for cell in cells)
        return cls(
            number=row.number,
            line=row.line,
            verbatim=row.verbatim,
            extras=row.extras,
            key_base=f"prompt:{prompt_hash(row.prompt)}" if row.key is None else f"id:{row.key}",
            template=row.prompt if expanded else None,
            prompt=None if expanded else row.prompt,
            key=row.key,
            cells=cells,
            foreign=foreign,
        )

    def excerpt(self, text: str) -> RowText:
        """A piece of the row's text with the place where people find the row."""
        file, number = self.place or (None, self.number)
        return RowText(file=file, row=number, text=text)

    @property
    def unguided(self) -> list[tuple[str, str]]:
        """Columns of its cells without effect because there is no guidance, with their values."""
        return [each for cell in self.cells for each in cell.values.unguided]

    @property
    def images(self) -> int:
        """How many images the row asks for."""
        return sum([cell.count for cell in self.cells])

    def requests(self, job_seed: int) -> tuple[Request, ...]:
        """The row's images: cell after cell, each in the order of its samples."""
        if self.asked is None:
            asked: list[Request] = []
            for cell in self.cells:
                base = self.key_base if cell.row.template is None else seed_base(cell.row)
                key = row_key(base or "", self.key_occurrence)
                asked += cell.requests(job_seed=job_seed, key=key)
            self.asked = tuple(asked)
        return self.asked


class Findings:
    """The problems so far: all of them, up to `MAX_PROBLEMS`."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.bad_rows = 0
        self.fatal = False

    def add(self, bad: RefusedRow) -> None:
        """Note a bad row."""
        self.bad_rows += 1
        # What follows damage to the file was never seen, so it can't be skipped.
        self.fatal = self.fatal or bad.fatal
        if len(self.problems) < MAX_PROBLEMS:
            self.problems += bad.problems

    def error(self, file: str) -> ManifestError:
        """The error that refuses a whole manifest, with all problems."""
        bad = self.bad_rows
        said = f"{bad} bad {'row' if bad == 1 else 'rows'}"
        if self.fatal:  # damage to a file is among them, and no row
            said = "it can't be used as it is"
        return ManifestError(f"{file}: {said}", problems=tuple(self.problems))


class RowKeys:
    """Gives each row its number among the rows with the same key base.

    `count` counts a key base and returns how often it came before, also in earlier chunks.
    """

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count

    def checked(
        self, chunk: list[PlannedRow | RefusedRow], file: str
    ) -> Iterator[PlannedRow | RefusedRow]:
        """The chunk's rows, each with its occurrence. A row that repeats an `id` is refused."""
        for row in chunk:
            if isinstance(row, RefusedRow) or row.key_base is None:
                yield row
                continue
            occurrence = self._count(row.key_base)
            name, number = row.place or (file, row.number)
            if row.key is None or occurrence == 0:
                known = occurrence == row.key_occurrence
                yield row if known else replace(row, key_occurrence=occurrence, asked=None)
                continue
            problem = Problem(
                file=name,
                row=number,
                line=row.line,
                column="id",
                found=f"{row.key!r}, which an earlier row has",
                allowed="an id of its own for every row",
            )
            yield RefusedRow.because_of([problem], number=row.number, line=row.line)

    @classmethod
    def after(cls, stored: Counter[str]) -> "RowKeys":
        """Keys that continue from counts in the database."""

        def count(base: str) -> int:
            stored[base] += 1
            return stored[base] - 1

        return cls(count)


def plan_rows(
    request: SubmissionRequest,
    source: Source,
    settings: Settings,
    *,
    inputs: InputFiles | None = None,
    reports: ColumnReports | None = None,
) -> Iterator[PlannedRow | RefusedRow]:
    """Every row of the manifest, in order, planned or with all its problems.

    `inputs` resolves init images and masks; without it, none is put into the store. `reports`
    gets what becomes of every column.
    """
    limits = Limits.from_settings(settings)
    planner = Planner(
        registry=load_registry(settings),
        settings=settings,
        defaults=request.defaults,
        inputs=inputs or InputFiles(settings, keep=False, given=request.inputs),
        source_name=source.name,
    )
    expansion = Expansion(
        variants=request.variants,
        draws=request.draws,
        job_seed=request.seed,
        grid=parse_grid(request.grid, limits=limits),
        templates=Templates(request.wildcards),
    )
    with closing(Occurrences()) as drawn:
        before = last = 0
        for each in source.files:
            row_planner = _RowPlanner(
                planner=planner.for_file(each.name),
                expansion=expansion,
                file=each.name,
                limits=replace(limits, max_rows=limits.max_rows - before),
                drawn=drawn,
                strict=request.strict,
            )
            for row in _planned(request, each, row_planner, reports):
                last = row.number or last
                yield row if each is source else _renumbered(row, before, each)
            before, last = before + last, 0
        if (problem := planner.job_quality.problem(source.name)) is not None:
            yield RefusedRow.because_of([problem], number=None, line=None)


def _renumbered(row: PlannedRow | RefusedRow, before: int, file: Source) -> PlannedRow | RefusedRow:
    """A row of one of several files, numbered among the rows of all files."""
    if isinstance(row, RefusedRow):
        return row if row.fatal else replace(row, number=before + row.number)
    return replace(row, number=before + row.number, place=(file.name, row.number))


def _planned(
    request: SubmissionRequest,
    source: Source,
    row_planner: "_RowPlanner",
    reports: ColumnReports | None,
) -> Iterator[PlannedRow | RefusedRow]:
    """The rows of one file."""
    found = read_manifest(
        source,
        columns=request.columns,
        limits=row_planner.limits,
        format=request.format,
        defaults=request.defaults,
        literal_words=request.literal_words,
        reports=reports,
    )
    for (number, line), items in groupby(found, key=_place):
        problems: list[Problem] = []
        for item in items:
            planned = row_planner.plan(item) if isinstance(item, ManifestRow) else [item]
            if isinstance(planned, PlannedRow):
                yield planned
            else:
                problems += planned
        if problems:
            yield RefusedRow.because_of(problems, number=number, line=line)


class _RowPlanner:
    """Expands a row and plans every cell of it."""

    def __init__(
        self,
        *,
        planner: Planner,
        expansion: Expansion,
        file: str,
        limits: Limits,
        drawn: Occurrences,
        strict: bool,
    ) -> None:
        self._strict = strict
        self._planner = planner
        self._expansion = expansion
        self._file = file
        self.limits = limits
        self._drawn = drawn

    def plan(self, row: ManifestRow) -> PlannedRow | list[Problem]:
        cells: list[PlannedCell] = []
        problems: dict[str, Problem] = {}
        for cell in self._expanded(row):
            planned = cell if isinstance(cell, Problem) else self._planner.plan(cell)
            if isinstance(planned, Problem):
                # The cells of a row often have the same problem: it is said once.
                problems[str(planned)] = planned
            else:
                cells.append(planned)
        if problems:
            return list(problems.values())
        foreign = tuple(self._foreign(row, cells))
        if foreign and self._strict:
            return [self._refused(row, each) for each in foreign]
        return PlannedRow.of(row, cells, foreign=foreign)

    def _foreign(self, row: ManifestRow, cells: list[PlannedCell]) -> Iterator[ForeignSyntax]:
        """Other tools' syntax in the prompts of a row, each kind once."""
        # A backslash escapes what looks like a template, so its author meant it as plain text.
        expanded = self._expansion.variants != "off" and "\\" in row.prompt
        texts = {
            (text, cell.values.parameters.prompt_weighting or False)
            for cell in cells
            for text in (cell.row.prompt, cell.values.parameters.negative_prompt)
            if text and may_be_foreign(text)
        }
        kinds: set[str] = set()
        for text, weighted in sorted(texts):
            line = text == row.verbatim.strip()
            for each in find_foreign_syntax(text, weighted=weighted, expanded=expanded, line=line):
                if each.kind not in kinds:
                    kinds.add(each.kind)
                    yield each

    def _refused(self, row: ManifestRow, foreign: ForeignSyntax) -> Problem:
        return Problem(
            file=self._file,
            row=row.number,
            line=row.line or None,
            column="prompt",
            found=f"{shown(foreign.piece)}, another tool's {foreign.kind}",
            allowed=WAYS_OUT[foreign.kind],
        )

    def _expanded(self, row: ManifestRow) -> Iterator[ManifestRow | Problem]:
        occurrence = 0
        if self._expansion.variants == "sample":
            # Equal templates draw different prompts.
            occurrence = self._drawn.add(row.key or prompt_hash(row.prompt))
        return expand(
            row, self._expansion, file=self._file, limits=self.limits, occurrence=occurrence
        )


def _place(item: ManifestRow | Problem) -> tuple[int | None, int | None]:
    return (item.number if isinstance(item, ManifestRow) else item.row), item.line


def chunks(rows: Iterator[PlannedRow | RefusedRow]) -> Iterator[list[PlannedRow | RefusedRow]]:
    """The rows in chunks of five thousand, or fewer if they ask for many images each."""
    chunk: list[PlannedRow | RefusedRow] = []
    images = 0
    for row in rows:
        chunk.append(row)
        images += 1 if isinstance(row, RefusedRow) else row.images
        if len(chunk) >= CHUNK_ROWS or images >= CHUNK_IMAGES:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk

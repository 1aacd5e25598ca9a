"""Settling rows: read, expanded, planned, and counted among the rows of the same key."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby

from imagemill.db.models.registry import load_registry
from imagemill.db.seeds import prompt_hash
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.scheduler_jobs.expansion import ExpandedRow, Expansion, Templates, expand, parse_grid
from imagemill.scheduler_jobs.manifest import Limits, ManifestRow, Problem, Source, read_manifest
from imagemill.scheduler_jobs.manifest.problems import shown
from imagemill.scheduler_jobs.submit.foreign_syntax import (
    WAYS_OUT,
    ForeignSyntax,
    find_foreign_syntax,
)
from imagemill.scheduler_jobs.submit.input_files import InputFiles
from imagemill.scheduler_jobs.submit.occurrences import Occurrences
from imagemill.scheduler_jobs.submit.planner import PlannedCell, Planner
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

CHUNK_ROWS = 1000
"""Rows inserted in one transaction."""

CHUNK_IMAGES = 5000
"""A chunk ends early when its rows ask for this many images."""

MAX_PROBLEMS = 100_000
"""Problems kept in memory; beyond, bad rows are only counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that asks for nothing, with everything that is wrong with it."""

    number: int | None
    line: int | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SettledRow:
    """A good row, expanded and planned, with its place among the rows of the same key base."""

    row: ManifestRow
    cells: tuple[PlannedCell, ...]
    """What the row was expanded to; one cell, where nothing was."""
    occurrence: int = 0
    foreign: tuple[ForeignSyntax, ...] = ()
    """What its prompts hold of other tools' syntax."""

    @property
    def number(self) -> int:
        """The row's 1-based number in the manifest."""
        return self.row.number

    @property
    def key_base(self) -> str:
        """What the row's key starts with: its `id`, else its prompt's hash."""
        if self.row.key is not None:
            return f"id:{self.row.key}"
        return f"prompt:{prompt_hash(self.row.prompt)}"

    @property
    def template(self) -> str | None:
        """The prompt as it stood, where it was expanded."""
        expanded = any(cell.row.prompt != self.row.prompt for cell in self.cells)
        return self.row.prompt if expanded else None

    @property
    def images(self) -> int:
        """How many images the row asks for."""
        return sum(cell.parameters.count for cell in self.cells)

    def specs(self, job_seed: int) -> Iterator[ImageSpec]:
        """The row's images: cell after cell, each in the order of its samples."""
        for cell in self.cells:
            yield from cell.specs(job_seed=job_seed, occurrence=self.occurrence)


class Findings:
    """Problems so far: all of them, up to a bound on memory."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.bad_rows = 0
        self.fatal = False

    def add(self, bad: BadRow) -> None:
        """Note a bad row."""
        self.bad_rows += 1
        # Damage to the file itself: what follows it was never seen, so it can't be skipped.
        self.fatal = self.fatal or bad.number is None
        if len(self.problems) < MAX_PROBLEMS:
            self.problems += bad.problems


class Keys:
    """Gives rows their place among those of the same key base.

    `count` counts a key base and says how often it came before, also in earlier chunks.
    """

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count

    def checked(self, chunk: list[SettledRow | BadRow], file: str) -> Iterator[SettledRow | BadRow]:
        """The chunk with each row's occurrence; a repeated `id` makes a row bad."""
        for settled in chunk:
            if isinstance(settled, BadRow):
                yield settled
                continue
            base = settled.key_base
            occurrence = self._count(base)
            row = settled.row
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
    def after(cls, stored: Counter[str]) -> "Keys":
        """Keys that continue from counts in the database."""

        def count(base: str) -> int:
            stored[base] += 1
            return stored[base] - 1

        return cls(count)


def settle_rows(
    request: SubmissionRequest, source: Source, settings: Settings, *, keep_inputs: bool = False
) -> Iterator[SettledRow | BadRow]:
    """Every row of the manifest, in order, settled or with all its problems.

    `keep_inputs` puts init images and masks into the store.
    """
    limits = Limits.from_settings(settings)
    with closing(Occurrences()) as drawn:
        yield from _settled(request, source, settings, limits, drawn, keep_inputs=keep_inputs)


def _settled(
    request: SubmissionRequest,
    source: Source,
    settings: Settings,
    limits: Limits,
    drawn: Occurrences,
    *,
    keep_inputs: bool,
) -> Iterator[SettledRow | BadRow]:
    settler = _Settler(
        planner=Planner(
            registry=load_registry(settings),
            settings=settings,
            defaults=request.defaults,
            inputs=InputFiles(settings, keep=keep_inputs),
            source_name=source.name,
        ),
        expansion=Expansion(
            variants=request.variants,
            draws=request.draws,
            job_seed=request.seed,
            grid=parse_grid(request.grid, limits=limits),
            templates=Templates(request.wildcards),
        ),
        file=source.name,
        limits=limits,
        drawn=drawn,
        strict=request.strict,
    )
    found = read_manifest(
        source,
        columns=request.columns,
        limits=limits,
        format=request.format,
        defaults=request.defaults,
        literal_words=request.literal_words,
    )
    for (number, line), items in groupby(found, key=_place):
        problems: list[Problem] = []
        for item in items:
            settled = settler.settle(item) if isinstance(item, ManifestRow) else [item]
            if isinstance(settled, SettledRow):
                yield settled
            else:
                problems += settled
        if problems:
            yield BadRow(number=number, line=line, problems=tuple(problems))


class _Settler:
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
        self._limits = limits
        self._drawn = drawn

    def settle(self, row: ManifestRow) -> SettledRow | list[Problem]:
        cells: list[PlannedCell] = []
        problems: dict[str, Problem] = {}
        for expanded in self._expanded(row):
            planned = expanded if isinstance(expanded, Problem) else self._planner.plan(expanded)
            if isinstance(planned, Problem):
                # The cells of a row often share what is wrong with them.
                problems[str(planned)] = planned
            else:
                cells.append(planned)
        if problems:
            return list(problems.values())
        foreign = tuple(self._foreign(row, cells))
        if foreign and self._strict:
            return [self._refused(row, each) for each in foreign]
        return SettledRow(row=row, cells=tuple(cells), foreign=foreign)

    def _foreign(self, row: ManifestRow, cells: list[PlannedCell]) -> Iterator[ForeignSyntax]:
        """What the prompts of a row hold of other tools' syntax, each kind once."""
        # A backslash keeps what looks like a template from being one: then it was meant.
        expanded = self._expansion.variants != "off" and "\\" in row.prompt
        texts = {
            (text, cell.parameters.prompt_weighting or False)
            for cell in cells
            for text in (cell.row.prompt, cell.parameters.negative_prompt or "")
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

    def _expanded(self, row: ManifestRow) -> Iterator[ExpandedRow | Problem]:
        occurrence = 0
        if self._expansion.variants == "sample":
            # Equal templates draw different prompts.
            occurrence = self._drawn.add(row.key or prompt_hash(row.prompt))
        return expand(
            row, self._expansion, file=self._file, limits=self._limits, occurrence=occurrence
        )


def _place(item: ManifestRow | Problem) -> tuple[int | None, int | None]:
    return (item.number if isinstance(item, ManifestRow) else item.row), item.line


def chunks(rows: Iterator[SettledRow | BadRow]) -> Iterator[list[SettledRow | BadRow]]:
    """Rows by the thousand, less where they ask for many images each."""
    chunk: list[SettledRow | BadRow] = []
    images = 0
    for row in rows:
        chunk.append(row)
        images += 1 if isinstance(row, BadRow) else row.images
        if len(chunk) >= CHUNK_ROWS or images >= CHUNK_IMAGES:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk

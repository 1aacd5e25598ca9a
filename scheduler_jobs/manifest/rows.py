"""From a row's cells to a `ManifestRow`."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from imagemill.db.seeds import SEED_LIMIT
from imagemill.scheduler_jobs.manifest import values
from imagemill.scheduler_jobs.manifest.columns import layout as columns
from imagemill.scheduler_jobs.manifest.columns.column_report import ColumnReports
from imagemill.scheduler_jobs.manifest.columns.combined import COMBINED
from imagemill.scheduler_jobs.manifest.columns.fields import KEY, PROMPT
from imagemill.scheduler_jobs.manifest.columns.foreign_names import asks_for_nothing, folded
from imagemill.scheduler_jobs.manifest.formats.prompts.infotext import check_is_prompt
from imagemill.scheduler_jobs.manifest.limits import Limits
from imagemill.scheduler_jobs.manifest.parameters import Parameters
from imagemill.scheduler_jobs.manifest.problems import BadValue, Broken, Problem, shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON, BadRow, RawRow, without_nan

_KNOWN_LAYOUTS = 256
_NOTHING = Parameters()
_NEGATIVE = "negative_prompt"
_SEED = "seed"

_KNOWN_PARAMETERS = 1024
"""How many combinations of settings are remembered."""

_KNOWN_CHARACTERS = 500
"""The most characters that a remembered combination has: a negative prompt may be very long."""


# Not frozen: every row needs one, and a frozen one takes six times as long to make.
@dataclass(kw_only=True, slots=True)
class ManifestRow:
    """One valid data row.

    `number` counts data rows from 1. `line` is the physical line where it starts (0 in Parquet).
    `verbatim` is the unchanged line (JSON text for Parquet and elements of a JSON array). `key` is
    the text of the `id` column, if there is one. `parameters` has only the values that the row
    itself sets. `extras` has the unknown columns, unchanged.
    `template` is the prompt as the manifest has it, if the row was expanded; else it is None.
    """

    number: int
    line: int
    verbatim: str
    key: str | None
    prompt: str
    parameters: Parameters
    extras: Mapping[str, JSON]
    template: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """Parameters that were found right, without their seed, and the largest seed beside them."""

    parameters: Parameters
    most_seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRules:
    """How rows are read, whatever the format of their file is.

    - `columns`: column to field, as `--map` gives them. It wins over the known names.
    - `defaults`: the layers below the rows, for checks that need both (pixels, seed + samples).
    - `literal_words`: whether `nan`, `None` and similar words are texts, not missing values.
    """

    columns: Mapping[str, str]
    limits: Limits
    defaults: Parameters
    literal_words: bool


class RowReader:
    """Turns raw rows of one file into manifest rows or problems.

    `kind` is the file's format: an empty cell of CSV and TSV says nothing, where in JSON an empty
    text is a value, and a NaN in an extra of Parquet or TOML is nothing. `reports` gets what
    becomes of the columns.
    """

    def __init__(self, *, file: str, kind: str, rules: RowRules, reports: ColumnReports) -> None:
        self._file = file
        self._mapping = rules.columns
        self.limits = rules.limits
        self._defaults = rules.defaults
        self._blank_is_unset = kind in {"csv", "tsv", "xlsx"}
        self._nan_is_null = kind in {"parquet", "arrow", "toml"}
        self._only_texts = kind in {"csv", "tsv"}
        self._literal_words = rules.literal_words
        self._reports = reports
        self._layouts: dict[tuple[str, ...], columns.Layout] = {}
        self._known: dict[tuple[Any, ...], _Known] = {}
        self._extras_before: dict[str, JSON] = {}
        self._unmatched = set(rules.columns)
        self._bad_header: Broken | None = None

    def check_header(self, names: tuple[str, ...], line: int | None) -> None:
        """Raise `Broken` for a table whose rows can't be read."""
        self._match(names)
        if self._unmatched:
            raise self._no_column(f"one of {', '.join(names)}", line=line, column="header")
        try:
            self.layout(names)
        except BadValue as bad:
            self._bad_header = Broken(bad.found, bad.allowed, line=line, column="header")
            if names not in self._layouts:
                raise self._bad_header from None

    def check_mapping(self) -> None:
        """Raise `Broken` if a `--map` or `--extra` named no column of any row."""
        if self._unmatched:
            raise self._no_column("a key that a row has")

    def layout(self, names: tuple[str, ...]) -> columns.Layout:
        """How rows with these columns are read. Raises `BadValue` if they can't be read."""
        layout = self._layouts.get(names)
        if layout is None:
            self._match(names)
            layout = columns.lay_out(names, self._mapping)
            self._reports.note(names, layout)
            # Every row of JSON Lines may have other keys, so only some layouts are kept.
            if len(self._layouts) < _KNOWN_LAYOUTS:
                self._layouts[names] = layout
        if layout.refused:
            raise columns.refusal(layout.refused)
        return layout

    def _match(self, names: tuple[str, ...]) -> None:
        if self._unmatched:
            said = (columns.mapped(name, self._mapping) for name in names)
            self._unmatched -= {found[0] for found in said if found}

    def _no_column(self, allowed: str, **where: Any) -> Broken:
        column = next(name for name in self._mapping if name in self._unmatched)
        option = "--extra" if self._mapping[column] == columns.EXTRA else "--map"
        return Broken(f"{option} names {shown(column)}, which is no column", allowed, **where)

    def read(self, raw: RawRow | BadRow) -> Iterator[ManifestRow | Problem]:
        """The row, or every problem that it has; `Broken` if the header was refused."""
        if self._bad_header is not None:
            # Told only now, so that `plan` can show a value of each column that was refused.
            self._reports.take_examples(raw.cells if isinstance(raw, RawRow) else {})
            raise self._bad_header
        if isinstance(raw, BadRow):
            yield self._problem(raw, raw.column, raw.found, raw.allowed)
            return
        try:
            layout = self.layout(tuple(raw.cells))
        except BadValue as bad:
            self._reports.take_examples(raw.cells)
            yield self._problem(raw, None, bad.found, bad.allowed)
            return
        self._reports.take_examples(raw.cells)
        problems: list[Problem] = []
        fields = {
            field: raw.cells[column]
            for field, column in layout.fields.items()
            if raw.cells[column] is not None
            and not (self._blank_is_unset and raw.cells[column] == "")
        }
        not_numbers = {
            layout.fields[field]: fields.pop(field)
            for field in layout.by_value
            if field in fields and not values.is_number(fields[field])
        }
        prompt = self._prompt(raw, layout, fields.pop(PROMPT, None), problems)
        key = self._key(raw, layout, fields.pop(KEY, None), problems)
        parameters = self._parameters(raw, layout, fields, problems)
        extras = self._extras(raw, layout, not_numbers, problems)
        if problems:
            yield from problems
            return
        yield ManifestRow(
            number=raw.number,
            line=raw.line,
            verbatim=raw.verbatim,
            key=key,
            prompt=prompt,
            parameters=parameters,
            extras=extras,
        )

    def _problem(
        self, raw: RawRow | BadRow, column: str | None, found: str, allowed: str
    ) -> Problem:
        return Problem(
            file=self._file,
            row=raw.number,
            line=raw.line or None,
            column=column,
            found=found,
            allowed=allowed,
        )

    def _prompt(
        self, raw: RawRow, layout: columns.Layout, value: JSON, problems: list[Problem]
    ) -> str:
        try:
            text = "" if value is None else value
            if not self._literal_words:
                values.check_not_missing(text)
            if isinstance(text, str):
                check_is_prompt(text)
            return values.text(text, most_bytes=self.limits.max_prompt_bytes, empty=False)
        except BadValue as bad:
            column = layout.fields[PROMPT]
            problems.append(self._problem(raw, column, bad.found, bad.allowed))
            return ""

    def _key(
        self, raw: RawRow, layout: columns.Layout, value: JSON, problems: list[Problem]
    ) -> str | None:
        try:
            return values.key(value)
        except BadValue as bad:
            column = layout.fields[KEY]
            problems.append(self._problem(raw, column, bad.found, bad.allowed))
            return None

    def _parameters(
        self,
        raw: RawRow,
        layout: columns.Layout,
        fields: dict[str, Any],
        problems: list[Problem],
    ) -> Parameters:
        if not fields:
            return _NOTHING
        if not self._literal_words:
            try:
                values.check_not_missing(fields.get(_NEGATIVE))
            except BadValue as bad:
                negative = layout.fields[_NEGATIVE]
                problems.append(self._problem(raw, negative, bad.found, bad.allowed))
        named = dict(layout.fields)
        for combined, read in COMBINED:
            if combined in fields:
                try:
                    read(fields, named)
                except BadValue as bad:
                    problems.append(self._problem(raw, named[combined], bad.found, bad.allowed))
        try:
            parameters = self._validated(fields)
        except BadValue as bad:
            problems.append(self._problem(raw, None, bad.found, bad.allowed))
        except ValidationError as error:
            for field, found, allowed in bad_fields(error):
                column = named.get(field) if field else None
                problems.append(self._problem(raw, column, found, allowed))
        else:
            return parameters
        return _NOTHING

    def _validated(self, fields: Mapping[str, Any]) -> Parameters:
        """The parameters of these fields. Raises what `Parameters` raises.

        Most rows differ from others only in prompt and seed, so the rest is validated once. What
        is not right is validated as a whole, for all its problems.
        """
        # With its type, because 1, 1.0 and True are equal keys; of a seed only that there is one.
        key = tuple([(name, type(value), name == _SEED or value) for name, value in fields.items()])
        try:
            known = self._known[key]
            if _SEED not in fields:
                return known.parameters
            seed = values.seed(fields[_SEED])
            if seed <= known.most_seed:
                return known.parameters.with_seed(seed)
        except (KeyError, TypeError, BadValue):
            pass
        parameters = Parameters.model_validate(fields, context=self.limits)
        layered = parameters.over(self._defaults)
        layered.check(self.limits)
        self._remember(key, parameters, max(parameters.count, layered.count))
        return parameters

    def _remember(self, key: tuple[Any, ...], parameters: Parameters, samples: int) -> None:
        characters = sum(len(value) for _, _, value in key if isinstance(value, str))
        if len(self._known) < _KNOWN_PARAMETERS and characters <= _KNOWN_CHARACTERS:
            with suppress(TypeError):  # a list can't be a key
                self._known[key] = _Known(
                    parameters=parameters.with_seed(None), most_seed=SEED_LIMIT - samples
                )

    def _extras(
        self,
        raw: RawRow,
        layout: columns.Layout,
        not_numbers: Mapping[str, JSON],
        problems: list[Problem],
    ) -> dict[str, JSON]:
        extras: dict[str, JSON] = {}
        if layout.foreign:
            self._check_foreign(raw, layout, problems)
        for column in not_numbers:
            self._reports.keep(column)
        for column in (*layout.extras, *not_numbers):
            value = raw.cells[column]
            if self._nan_is_null:
                value = without_nan(value)
            try:
                values.check_characters(column)
                values.check_storable(value)
            except BadValue as bad:
                problems.append(self._problem(raw, column, bad.found, bad.allowed))
            extras[column] = value
        # One object for rows with the same extras, so that its JSON is written once. Only texts:
        # 1, 1.0 and True are equal too.
        if self._only_texts and extras == self._extras_before:
            return self._extras_before
        self._extras_before = extras
        return extras

    def _check_foreign(self, raw: RawRow, layout: columns.Layout, problems: list[Problem]) -> None:
        """Add a problem for each setting of another tool that would change the picture there."""
        others = {folded(column): value for column, value in raw.cells.items()}
        for column, name in layout.foreign.items():
            value = raw.cells[column]
            if not asks_for_nothing(name, value, others):
                found = f"{shown(value)}, a setting that imagemill does not have"
                allowed = f"--extra {columns.quoted(column)} keeps it as it stands, without effect"
                problems.append(self._problem(raw, column, found, allowed))
                self._reports.refuse(column)


def bad_fields(error: ValidationError) -> Iterator[tuple[str, str, str]]:
    """(field, found, allowed) for every error of `Parameters`. The field "" means all of them."""
    for detail in error.errors(include_url=False):
        field = str(detail["loc"][0]) if detail["loc"] else ""
        bad = detail.get("ctx", {}).get("error")
        if isinstance(bad, BadValue):
            yield field, bad.found, bad.allowed
        elif detail["type"] == "extra_forbidden":
            yield field, "an unknown name", f"one of {', '.join(Parameters.model_fields)}"
        else:
            yield field, detail["msg"], "another value"

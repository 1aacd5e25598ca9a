"""What a person asks for, in flags or in keywords, and the request that is made of it.

The command line and `imagemill.submit` both come through here, so that both refuse the same things
in the same words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from imagemill.db.errors import UsageError
from imagemill.db.labels import read_labels
from imagemill.db.seeds import SEED_LIMIT
from imagemill.db.settings import Settings
from imagemill.db.specs import INPUT_IMAGES
from imagemill.scheduler_jobs.deadlines import read_deadline
from imagemill.scheduler_jobs.expansion import Grid, Variants, parse_grid
from imagemill.scheduler_jobs.manifest import (
    FORMATS,
    PROMPTS,
    Limits,
    Parameters,
    Source,
    parameters_from_flags,
    parameters_from_toml,
)
from imagemill.scheduler_jobs.manifest.columns.fields import FIELDS, Flag
from imagemill.scheduler_jobs.manifest.columns.layout import EXTRA, check_mapping, field_of
from imagemill.scheduler_jobs.manifest.problems import Broken
from imagemill.scheduler_jobs.notifications.addresses import check_url
from imagemill.scheduler_jobs.owners import MOST_WEIGHT, read_owner, this_user
from imagemill.scheduler_jobs.submit.given_inputs import take_input
from imagemill.scheduler_jobs.submit.request import NAME_CHARACTERS, SubmissionRequest

PARAMETER_FLAGS: Mapping[str, Flag] = MappingProxyType(
    {name: about.flag for name, about in FIELDS.items() if about.flag is not None}
)
"""A flag for every field of `Parameters` except `seed`: `--seed` is the job's seed, from which rows
derive theirs."""

MOST_PRIORITY = 2**31 - 1
MOST_WORKERS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionOptions:
    """Options of a submission as a person gives them, not yet checked.

    One of `manifests`, `prompts` and `rows` says what to render; `rows` gives a program's rows as
    a manifest of `manifest_format`. `parameters` are defaults for rows, by name or synonym;
    `defaults_file` is a TOML file of more, below them. `columns` maps columns to fields, `extra`
    are patterns of columns to keep as they stand. The rest is as `SubmissionRequest` says.
    """

    manifests: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    rows: Callable[[], Source] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    defaults_file: Path | None = None
    name: str | None = None
    seed: int = 0
    priority: int = 0
    owner: str | None = None
    weight: int = 1
    max_workers: int | None = None
    needs: Sequence[str] = ()
    deadline: str | timedelta | datetime | None = None
    route: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    extra: Sequence[str] = ()
    manifest_format: str | None = None
    skip_bad_rows: bool = False
    literal_words: bool = False
    strict: bool = False
    variants: Variants = "off"
    draws: int = 1
    grid: Sequence[str] = ()
    wildcards: Path | None = None
    labels: Sequence[str] = ()
    notify: Sequence[str] = ()

    def request(self, settings: Settings, *, where: str = "command line") -> SubmissionRequest:
        """The checked request. `where` is what messages call the place of the parameters.

        Raises:
            UsageError: an option can't be used; `ManifestError` if it is a parameter.
        """
        self._check()
        parameters = dict(self.parameters)
        inputs = _take_inputs(parameters, settings)
        limits = Limits.from_settings(settings)
        defaults = parameters_from_flags(parameters, limits=limits, name=where)
        _check_beside_grid(defaults, parse_grid(self.grid, limits=limits))
        if self.defaults_file is not None:
            below = parameters_from_toml(self.defaults_file, limits=limits)
            if defaults.format == "png":  # the file's quality is for its own format
                below = below.model_copy(update={"quality": None})
            defaults = defaults.over(below)
        return SubmissionRequest(
            manifest=self.manifests[0] if len(self.manifests) == 1 else self.manifests or PROMPTS,
            prompts=self.prompts,
            rows=self.rows,
            inputs=inputs,
            name=self.name,
            defaults=_agreeing(defaults, limits),
            seed=self.seed,
            priority=self.priority,
            owner=this_user() if self.owner is None else read_owner(self.owner),
            weight=self.weight,
            max_workers=self.max_workers,
            needs=read_labels(self.needs),
            deadline=None if self.deadline is None else read_deadline(self.deadline),
            route=self.route or settings.route,
            columns=_columns(self.columns, self.extra),
            format=self.manifest_format or ("jsonl" if self.prompts else None),
            skip_bad_rows=self.skip_bad_rows,
            literal_words=self.literal_words,
            strict=self.strict,
            grid=tuple(self.grid),
            variants=self.variants,
            draws=self.draws,
            wildcards=self.wildcards,
            labels=read_labels(self.labels),
            notify=tuple(map(check_url, self.notify)),
        )

    def _check(self) -> None:
        _check_whole("seed", self.seed, 0, SEED_LIMIT - 1)
        _check_whole("priority", self.priority, -MOST_PRIORITY - 1, MOST_PRIORITY)
        _check_whole("weight", self.weight, 1, MOST_WEIGHT)
        if self.max_workers is not None:
            _check_whole("max_workers", self.max_workers, 1, MOST_WORKERS)
        _check_whole("draws", self.draws, 1, None)
        _check_one_of("variants", self.variants, get_args(Variants))
        if self.manifest_format is not None:
            _check_one_of("manifest_format", self.manifest_format, FORMATS)
        if self.name is not None and len(self.name) > NAME_CHARACTERS:
            raise UsageError(
                f"name: {len(self.name):,} characters; allowed: at most {NAME_CHARACTERS}"
            )
        if self.wildcards is not None and not self.wildcards.is_dir():
            raise UsageError(f"wildcards: there is no folder {self.wildcards}")
        if self.variants == "off" and self.wildcards:
            raise UsageError("--wildcards has no effect without --variants all or sample")
        if self.variants != "sample" and self.draws != 1:
            raise UsageError("--draws has no effect without --variants sample")


def _take_inputs(parameters: dict[str, Any], settings: Settings) -> dict[str, bytes]:
    """The files that parameters name, by their hashes, which take the place of the names."""
    inputs: dict[str, bytes] = {}
    for name, value in parameters.items():
        field_name = field_of(name) or name
        if field_name in INPUT_IMAGES and value:
            flag = PARAMETER_FLAGS[field_name].name
            parameters[name], body = take_input(flag, str(value), settings)
            if body is not None:
                inputs[parameters[name]] = body
    return inputs


def _check_beside_grid(given: Parameters, grid: Grid) -> None:
    """Raise `UsageError` for a parameter that every cell of the grid replaces.

    Not for one of a defaults file or a row, which says what holds where nothing else is said.
    """
    axes, under = grid[0].settings(), grid[0].over(given)
    for name in given.settings():
        if name in axes or getattr(under, name) is None:
            raise UsageError(f"{name} has no effect beside --grid, which sets it in every cell")


def _agreeing(defaults: Parameters, limits: Limits) -> Parameters:
    """The layered parameters. Raises `UsageError` if flags and file contradict each other."""
    try:
        defaults.check(limits)
    except ValueError as bad:
        raise UsageError(f"flags and defaults together: {bad}") from None
    return defaults


def _columns(mapping: Mapping[str, str], extra: Sequence[str]) -> dict[str, str]:
    columns = dict.fromkeys(extra, EXTRA) | dict(mapping)
    try:
        check_mapping(columns)
    except Broken as bad:
        raise UsageError(str(bad)) from None
    return columns


def _check_whole(name: str, value: Any, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name}: {value!r} is no whole number")
    if value < low or (high is not None and value > high):
        most = "" if high is None else f" to {high}"
        raise UsageError(f"{name}: {value} is not from {low}{most}")


def _check_one_of(name: str, value: str, words: Sequence[str]) -> None:
    if value not in words:
        raise UsageError(f"{name}: {value!r} is not one of {', '.join(words)}")

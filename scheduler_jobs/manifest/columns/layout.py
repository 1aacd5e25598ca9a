"""The meaning of columns, by the names in `fields`.

Names are compared without case, separators and blanks of any kind, so `cfgScale`, `CFG scale` and
`cfg_scale` are one name. A column that is neither in the table nor similar to a name in it is an
extra: it is kept unchanged and never interpreted.
"""

import difflib
import fnmatch
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from imagemill.scheduler_jobs.manifest.columns.fields import (
    FIELDS,
    KEY,
    PROMPT,
    PROMPT_FALLBACKS,
    SAMPLER,
    SCHEDULE,
)
from imagemill.scheduler_jobs.manifest.columns.foreign_names import (
    folded,
    foreign_name,
    looks_like,
    misspelt,
)
from imagemill.scheduler_jobs.manifest.problems import BadValue, Broken, shown

EXTRA = "extra"
"""The field in `--map column=extra`: keep this column as an extra. `column` may be a pattern."""

BY_VALUE: Mapping[str, str] = MappingProxyType(
    {folded(name): field for field, about in FIELDS.items() for name in about.counted_as}
)
"""Names that mean a field only where their value is a number: SwarmUI counts `images`, and data
sets keep pictures under that name. A column of the field's own goes first."""

_LISTED_COLUMNS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a row's columns are read: field to column, and the columns that are extras.

    `foreign` has the extras that are settings of another tool, with that tool's name for them:
    whether they are refused depends on their values. `refused` has the columns that look like a
    setting, with the field that they look like. `by_value` has the fields that hold only where
    the value is a number.
    """

    fields: Mapping[str, str]
    extras: tuple[str, ...]
    foreign: Mapping[str, str]
    refused: Mapping[str, str]
    by_value: frozenset[str] = frozenset()


def _aliases() -> Mapping[str, str]:
    return MappingProxyType(
        {folded(name): field for field, about in FIELDS.items() for name in (field, *about.also)}
    )


_ALIASES = _aliases()
_SETTINGS = MappingProxyType(
    {name: field for name, field in _ALIASES.items() if field not in {PROMPT, KEY}}
)


def field_of(column: str) -> str | None:
    """The field that a column's name means without `--map`; None for an extra."""
    return _ALIASES.get(folded(column))


def mapped(column: str, mapping: Mapping[str, str]) -> tuple[str, str] | None:
    """The entry of `--map` for a column: its key there and the field; None if there is none."""
    if column in mapping:
        return column, mapping[column]
    for key, field in mapping.items():
        if field == EXTRA and fnmatch.fnmatchcase(column, key):
            return key, field
    return None


def lay_out(columns: Sequence[str], mapping: Mapping[str, str]) -> Layout:
    """Find the field of each column; `mapping` (column to field) wins over the names.

    Raises:
        BadValue: no column is the prompt, or two columns are the same field.
    """
    fields: dict[str, str] = {}
    extras: list[str] = []
    foreign: dict[str, str] = {}
    refused: dict[str, str] = {}
    for column in columns:
        said = mapped(column, mapping)
        field = said[1] if said else field_of(column)
        if field is None or field == EXTRA:
            extras.append(column)
            if said is None and (name := foreign_name(column)) is not None:
                foreign[column] = name
            elif said is None and (near := looks_like(column, _SETTINGS)) is not None:
                refused[column] = near
        elif field not in fields:
            fields[field] = column
        elif field != SAMPLER or not _part_schedule(fields, column, mapping):
            raise BadValue(
                f"columns {shown(fields[field])} and {shown(column)} both mean {field}",
                f"one column for {field}; --map {column}=extra leaves one alone",
            )
    if PROMPT not in fields:
        misspelt_prompts = _misspelt_prompts(extras, mapping)
        refused.update(misspelt_prompts)
        if not misspelt_prompts:
            _fall_back(fields, extras, mapping)
    by_value = _by_value(fields, extras, mapping)
    return Layout(
        fields=fields, extras=tuple(extras), foreign=foreign, refused=refused, by_value=by_value
    )


def _by_value(
    fields: dict[str, str], extras: list[str], mapping: Mapping[str, str]
) -> frozenset[str]:
    """Move the columns of `BY_VALUE` from the extras to the fields, and name those fields."""
    found = {BY_VALUE[folded(c)]: c for c in extras if folded(c) in BY_VALUE}
    found = {
        field: column
        for field, column in found.items()
        if field not in fields and mapped(column, mapping) is None
    }
    fields.update(found)
    for column in found.values():
        extras.remove(column)
    return frozenset(found)


def _part_schedule(fields: dict[str, str], column: str, mapping: Mapping[str, str]) -> bool:
    """Read one of two sampler columns as the schedule, if it is called `scheduler`.

    Returns whether that was possible.
    """
    pair = (fields[SAMPLER], column)
    for sampler, schedule in (pair, pair[::-1]):
        if folded(schedule) == "scheduler" != folded(sampler) and schedule not in mapping:
            if SCHEDULE in fields:
                return False
            fields[SAMPLER], fields[SCHEDULE] = sampler, schedule
            return True
    return False


def refusal(refused: Mapping[str, str]) -> BadValue:
    """The error for columns that look like settings, with the options that solve it."""
    columns = list(refused)
    listed = ", ".join(f"{shown(c)} looks like {refused[c]}" for c in columns[:_LISTED_COLUMNS])
    if len(columns) > _LISTED_COLUMNS:
        listed += f" and {len(columns) - _LISTED_COLUMNS} more"
    first = columns[0]
    return BadValue(
        f"{listed}, and is no name of it",
        f"--map {quoted(f'{first}={refused[first]}')} uses it, "
        f"--extra {quoted(_pattern(columns))} keeps it as it stands",
    )


def quoted(word: str) -> str:
    """A word as it is typed in a shell."""
    return shlex.quote(word)


def _pattern(columns: Sequence[str]) -> str:
    """The columns as one pattern, if they begin alike; else the first column."""
    start = columns[0].partition("_")[0] + "_"
    alike = len(columns) > 1 and all(column.startswith(start) for column in columns)
    return f"{start}*" if alike else columns[0]


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raise `Broken` if `--map` names a field that does not exist."""
    for column, field in mapping.items():
        if field != EXTRA and field not in FIELDS:
            raise Broken(
                f"--map {column}={field} names no field", f"one of {', '.join(FIELDS)}, {EXTRA}"
            )


def _misspelt_prompts(extras: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """The columns that are nearly called prompt, where none is.

    Beside one of them, `caption` may be something else, so nothing falls back to it.
    """
    names = {name: field for name, field in _ALIASES.items() if field == PROMPT}
    return {
        column: PROMPT
        for column in extras
        if mapped(column, mapping) is None and misspelt(column, names) is not None
    }


def _fall_back(fields: dict[str, str], extras: list[str], mapping: Mapping[str, str]) -> None:
    for name in PROMPT_FALLBACKS:
        for column in extras:
            if folded(column) == name and column not in mapping:
                fields[PROMPT] = column
                extras.remove(column)
                return
    columns = [*fields.values(), *extras]
    listed = ", ".join(shown(column) for column in columns[:_LISTED_COLUMNS])
    if len(columns) > _LISTED_COLUMNS:
        listed += f" and {len(columns) - _LISTED_COLUMNS} more"
    allowed = "a column called prompt (or Prompt, Prompts, caption, text), or --map COLUMN=prompt"
    if (near := _near_prompt(extras)) is not None:
        allowed = f"did you mean {shown(near)}? --map {quoted(f'{near}={PROMPT}')} uses it"
    raise BadValue(f"no prompt among the columns {listed}" if columns else "no columns", allowed)


def _near_prompt(columns: Sequence[str]) -> str | None:
    """The column that its owner may mean as the prompt, by its name."""
    within = next((column for column in columns if PROMPT in folded(column)), None)
    by_name = {folded(column): column for column in columns}
    close = difflib.get_close_matches(PROMPT, by_name, n=1)
    return by_name[close[0]] if close else within

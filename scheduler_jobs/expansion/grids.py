"""Grids over parameters: `guidance_scale=3,5,7.5` × `steps=10..30..10` × `sampler=ddim,euler`."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from imagemill.db.errors import ManifestError
from imagemill.scheduler_jobs.expansion.ranges import read_range
from imagemill.scheduler_jobs.manifest import (
    BadValue,
    Limits,
    Parameters,
    Problem,
    parameters_from_flags,
)
from imagemill.scheduler_jobs.manifest.columns.layout import field_of
from imagemill.scheduler_jobs.manifest.values import unique_keys

NAME = "--grid"
_NO_AXIS = frozenset({"seeds", "samples"})

Grid = tuple[Parameters, ...]
"""The cells of a grid, in order: the last axis changes fastest."""

NO_GRID: Grid = (Parameters(),)


def parse_grid(axes: Iterable[str], *, limits: Limits) -> Grid:
    """The cells of the grid that these axes span, each `name=value,value,…`.

    A value may be a range. Values with commas are given as a JSON list. Synonyms of the names are
    known, and `size=512x512,768x512` is one axis for width and height.

    Raises:
        ManifestError: one line for each axis or value that can't be used.
    """
    spans: dict[str, list[Parameters]] = {}
    problems: list[Problem] = []
    for axis in axes:
        name, _, text = axis.partition("=")
        field = field_of(name) or name
        try:
            if field in _NO_AXIS or field in spans:
                allowed = "--seeds or --samples" if field in _NO_AXIS else "every axis once"
                raise BadValue(f"axis {field}", allowed)  # noqa: TRY301 - one way out
            span = _span(field, _values(text), limits)
            _check_apart(span, spans)
            spans[field] = span
        except BadValue as bad:
            problems.append(Problem(file=NAME, column=name, found=bad.found, allowed=bad.allowed))
        except ManifestError as error:
            problems += [found for found in error.problems if isinstance(found, Problem)]
    if not problems and math.prod(map(len, spans.values())) > limits.max_samples:
        cells = math.prod(map(len, spans.values()))
        allowed = f"at most {limits.max_samples:,}"
        problems.append(Problem(file=NAME, found=f"a grid of {cells:,} cells", allowed=allowed))
    if problems:
        raise ManifestError("\n".join(map(str, problems)), problems=tuple(problems))
    if not spans:
        return NO_GRID
    return tuple(_cell(cell, limits) for cell in itertools.product(*spans.values()))


def _values(text: str) -> list[Any]:
    if text.startswith("["):
        try:
            values = json.loads(text, object_pairs_hook=unique_keys)
        except BadValue:
            raise
        except (ValueError, RecursionError):
            raise BadValue("a list that is not JSON", 'a list, such as ["a, b", "c"]') from None
    else:
        values = []
        for value in filter(None, map(str.strip, text.split(","))):
            numbers = read_range(value)
            values += [value] if numbers is None else numbers.texts()
    if not values:
        raise BadValue("an axis without values", "name=value,value,…")
    return list(values)


def _span(field: str, values: list[Any], limits: Limits) -> list[Parameters]:
    cells: list[Parameters] = []
    for value in values:
        if value is None:
            raise BadValue("null, which sets nothing", "a value")
        cell = parameters_from_flags({field: value}, limits=limits, name=NAME)
        if cell not in cells:
            cells.append(cell)
    return cells


def _check_apart(span: list[Parameters], before: Mapping[str, list[Parameters]]) -> None:
    """Raise `BadValue` if an axis sets what an earlier one sets: the last would win in silence."""
    mine = {name for cell in span for name in cell.settings()}
    for field, cells in before.items():
        if mine & {name for cell in cells for name in cell.settings()}:
            raise BadValue(f"axis {field} sets it as well", "one axis for it")


def _cell(axes: tuple[Parameters, ...], limits: Limits) -> Parameters:
    settings: dict[str, Any] = {}
    for axis in axes:
        settings |= axis.settings()
    cell = Parameters.model_construct(**settings)
    try:
        cell.check(limits)
    except BadValue as bad:
        problem = Problem(file=NAME, found=bad.found, allowed=bad.allowed)
        raise ManifestError(str(problem), problems=(problem,)) from None
    return cell

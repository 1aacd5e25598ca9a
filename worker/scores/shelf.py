"""The scorers that a process has made, each at its first use."""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from imagemill.db.errors import (
    ImagemillError,
    ScoreError,
    ServiceError,
    UsageError,
    first_line,
)
from imagemill.db.queries.pictures.dataset import COLUMN_NAMES
from imagemill.db.scorers import NAME, ScorerEntry
from imagemill.db.settings import Settings
from imagemill.worker.scores import Scorer, Scores

_TAKEN = frozenset({*COLUMN_NAMES, "tag", "tags"})
"""Columns that a score would hide."""


class ScorerShelf:
    """Makes scorers and keeps them. One that can't be made is not tried again."""

    def __init__(self, entries: Mapping[str, ScorerEntry], settings: Settings) -> None:
        self._entries = {name: each for name, each in entries.items() if each.problem is None}
        self._settings = settings
        self._made: dict[str, Scorer] = {}
        self._refused: dict[str, str] = {}

    @property
    def able(self) -> list[tuple[str, str]]:
        """The (scorer, version) pairs that this process can serve, as far as it knows."""
        return [(e.name, e.version) for e in self._entries.values() if e.name not in self._refused]

    @property
    def refused(self) -> list[str]:
        """Why scorers could not be made here, a line each."""
        return list(self._refused.values())

    def find(self, name: str) -> Scorer:
        """The scorer of this name. Raises `UsageError` if it can't be made here."""
        if name not in self._made:
            try:
                self._made[name] = _make(self._entries[name], self._settings)
            except ServiceError:
                raise
            except Exception as error:  # a package's own code may raise anything
                problem = f"the scorer {name} can't be used here: {first_line(error)}"
                self._refused[name] = problem
                raise UsageError(problem) from error
        return self._made[name]


def checked(
    scorer: Scorer, found: Sequence[Any], pictures: int
) -> list[dict[str, float | str] | ImagemillError]:
    """A scorer's answer, if it is one: only names that it yields, finite numbers, and texts.

    In the place of a picture's scores there may be its error. Raises `ValueError`.
    """
    if len(found) != pictures:
        raise ValueError(f"it gave {len(found)} results for {pictures} pictures")
    return [
        as_error(each) if isinstance(each, Exception) else _checked_scores(scorer, each)
        for each in found
    ]


def as_error(error: Exception) -> ImagemillError:
    """An error of a scorer's own code as one that can be recorded."""
    if isinstance(error, ImagemillError):
        return error
    return ScoreError(f"{type(error).__name__}: {first_line(error)}")


def _checked_scores(scorer: Scorer, scores: Scores) -> dict[str, float | str]:
    strange = sorted(set(scores) - set(scorer.yields))
    if strange:
        raise ValueError(f"it gave {strange[0]!r}, which it does not name in `yields`")
    checked_scores = {}
    for name, value in scores.items():
        number = value if isinstance(value, str) else float(value)
        if not isinstance(number, str) and not math.isfinite(number):
            raise ValueError(f"its {name} is {number}")
        checked_scores[name] = _storable(number) if isinstance(number, str) else number
    return checked_scores


def _storable(text: str) -> str:
    """A text that every database takes: without NULs, halves of surrogate pairs replaced."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _make(entry: ScorerEntry, settings: Settings) -> Scorer:
    """Those of the registry file get their entry and the settings, others nothing."""
    module, _, attribute = entry.target.partition(":")
    make = cast("Callable[..., Scorer]", getattr(import_module(module), attribute))
    scorer = make() if entry.options is None else make(entry, settings)
    for name in scorer.yields:
        if NAME.fullmatch(name) is None or name in _TAKEN:
            raise ValueError(f"{name!r} is no name for a score")
    return scorer

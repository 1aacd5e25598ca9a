"""Values that change no picture and no file beside other values of the same row.

A row's own quality beside PNG is refused. Values that only guidance uses are reported where there
is no guidance, and not refused: a grid over guidance begins at 1, and other tools write a negative
prompt with every picture.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from imagemill.scheduler_jobs.manifest import Parameters, Problem, RowText
from imagemill.scheduler_jobs.manifest.problems import shown
from imagemill.scheduler_jobs.submit.planning.refusals import Refused
from imagemill.scheduler_jobs.submit.row_counts import RowCounts

_LOSSLESS = "png"

_OF_GUIDANCE: Mapping[str, Any] = MappingProxyType(
    {"negative_prompt": "", "guidance_start": 0, "guidance_end": 1, "guidance_rescale": 0}
)
"""The columns that say something of guidance, with the value that says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdleRows:
    """How many rows have a value without effect in a column; `examples` are the first."""

    column: str
    beside: str
    """Why it has none."""
    rows: int
    examples: tuple[RowText, ...]


def check_quality(row: Parameters, complete: Parameters) -> None:
    """Raise `Refused` for a quality that a row itself gives, and whose file is a PNG."""
    if row.quality is not None and complete.format == _LOSSLESS:
        allowed = "none, or format jpeg or webp: a PNG is lossless"
        raise Refused("quality", str(row.quality), allowed)


def unguided_values(given: Parameters, complete: Parameters) -> tuple[tuple[str, str], ...]:
    """Columns of row and job that say something of guidance where there is none, and their values.

    `given` is what row and job say, `complete` what the model and the fallback add to it.
    """
    if complete.guidance_scale is None or complete.guidance_scale > 1:
        return ()
    values = ((name, getattr(given, name), idle) for name, idle in _OF_GUIDANCE.items())
    return tuple((name, shown(value)) for name, value, idle in values if value not in (None, idle))


class JobQuality:
    """Whether the quality that a job gives its rows has a file to act on.

    It is a default: a row that asks for PNG itself overrides it. So it is wrong only where the job
    says nothing else of the format, and no row does.
    """

    def __init__(self, defaults: Parameters) -> None:
        self._quality = defaults.quality
        self._used = self._idle = False

    def note(self, row: Parameters, complete: Parameters) -> None:
        """Look at the format of one more row."""
        if self._quality is None:
            return
        self._used |= complete.format != _LOSSLESS
        self._idle |= complete.format == _LOSSLESS and row.format is None

    def problem(self, file: str) -> Problem | None:
        """What is wrong with it after all rows of a manifest were planned."""
        if self._used or not self._idle:
            return None
        return Problem(
            file=file,
            column="quality",
            found=f"{self._quality} for all rows, and no picture is a JPEG or a WebP",
            allowed="--image-format jpeg or webp beside it, or no quality: a PNG is lossless",
        )


class IdleCounts:
    """Counts the rows with values without effect, by column."""

    def __init__(self) -> None:
        self._counts = RowCounts()

    def add(self, found: Iterable[tuple[str, str]], excerpt: Callable[[str], RowText]) -> None:
        """Note the idle columns of a row; each counts once. `excerpt` says where a value is."""
        self._counts.add(dict(found), excerpt)

    def found(self) -> tuple[IdleRows, ...]:
        """What was counted, in the order of the columns."""
        return tuple(
            IdleRows(
                column=column,
                beside="guidance_scale is 1 or less, which is no guidance",
                rows=rows,
                examples=examples,
            )
            for column, rows, examples in self._counts.found(_OF_GUIDANCE)
        )

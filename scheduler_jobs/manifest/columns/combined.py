"""Columns that fill other fields: a size, a schedule beside a sampler, batches.

Each function removes its column from a row's fields and sets the fields that it means. In `named`
it notes the column of each. It raises `BadValue` if the column can't be read.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from imagemill.db.samplers.names import AUTOMATIC, find_sampler
from imagemill.scheduler_jobs.manifest import values
from imagemill.scheduler_jobs.manifest.columns.fields import (
    BATCH_SIZE,
    BATCHES,
    SAMPLER,
    SAMPLER_INDEX,
    SCHEDULE,
    SIZE,
)
from imagemill.scheduler_jobs.manifest.problems import BadValue, shown

Fields = dict[str, Any]
Named = dict[str, str]

_PLAIN_SCHEDULES = frozenset({"", "automatic", "normal", "uniform", "default", "none"})
"""Words for the schedule that the sampler has by itself."""

_SAME = MappingProxyType({"ddim_uniform": "ddim"})
"""Schedules that are named after the sampler whose own they are."""


def split_size(fields: Fields, named: Named) -> None:
    """Read `512x768` as a width and a height."""
    size = fields.pop(SIZE)
    if "width" in fields or "height" in fields:
        raise BadValue("both size and width or height", "one of them")
    named["width"] = named["height"] = named[SIZE]
    fields["width"], fields["height"] = values.size(size)


def join_schedule(fields: Fields, named: Named) -> None:
    """Join a sampler and its schedule to one sampler. A schedule alone is taken as a sampler."""
    schedule = fields.pop(SCHEDULE)
    sampler = fields.get(SAMPLER)
    if not isinstance(schedule, str):
        raise BadValue(shown(schedule), "a schedule, such as karras")
    word = schedule.strip().casefold().replace(" ", "_")
    if sampler is None and word not in _PLAIN_SCHEDULES:
        fields[SAMPLER] = schedule
        named[SAMPLER] = named[SCHEDULE]
    plain = find_sampler(sampler) if isinstance(sampler, str) else None
    if word == "automatic" and plain is not None:
        word = AUTOMATIC.get(plain.name, word)
    if word in _PLAIN_SCHEDULES or plain is None:
        return  # an unknown sampler is reported when the field is validated
    own = plain.name == _SAME.get(word, word) or plain.name.endswith(f"_{word}")
    joined = plain if own else find_sampler(f"{plain.name} {word}")
    if joined is None:
        raise BadValue(
            f"{shown(schedule)} with sampler {shown(sampler)}",
            "normal, or a schedule that imagemill samplers lists with this sampler",
        )
    fields[SAMPLER] = joined.name


def multiply_batches(fields: Fields, named: Named) -> None:
    """Multiply the batch size by the number of batches to get the number of samples."""
    present = [name for name in (BATCH_SIZE, BATCHES) if name in fields]
    samples = 1
    for name in present:
        samples *= values.whole(fields.pop(name), low=1)
    if samples == 1 and ("samples" in fields or "seeds" in fields):
        return
    if "samples" in fields:
        raise BadValue("both samples and a batch", "one of them")
    fields["samples"] = samples
    named["samples"] = named[present[0]]


def choose_sampler(fields: Fields, named: Named) -> None:
    """A1111's API takes its `sampler_index` for the sampler where no `sampler_name` is given."""
    named.setdefault(SAMPLER, named[SAMPLER_INDEX])
    fields.setdefault(SAMPLER, fields.pop(SAMPLER_INDEX))


COMBINED: tuple[tuple[str, Callable[[Fields, Named], None]], ...] = (
    (SIZE, split_size),
    (SAMPLER_INDEX, choose_sampler),
    (SCHEDULE, join_schedule),
    (BATCH_SIZE, multiply_batches),
    (BATCHES, multiply_batches),
)
"""The columns, in the order in which they are read."""

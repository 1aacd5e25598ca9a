"""Which rows of a denoiser's call each image has.

With guidance a call has `places` places of two rows each: row r for a negative prompt, and row
r + places for its prompt. An image in a guided step needs a place. An image in a step without
guidance (outside its guidance interval) needs one row. As long as each image can have a place of
its own it has one; where there are more images, two without guidance share a place.

A denoiser's call has the same number of rows always, so an image's bits do not depend on which of
them it has, nor on whether it shares a place.
"""

from collections.abc import Mapping, Sequence

from imagemill.worker.engine.guided.slot import Cohort, Slot

Rows = tuple[int, int | None]
"""The row of an image's prompt, and that of its negative prompt if the call has one for it."""


def rows_needed(cohort: Cohort, rows_per_image: int) -> int:
    """How many rows the images of a cohort need in their next call.

    `rows_per_image` is 2 in an engine with guidance, and 1 in another.
    """
    return len(cohort.slots) * (rows_per_image if cohort.guiding else 1)


def assign_rows(
    cohorts: Sequence[Cohort], *, places: int, rows_per_image: int
) -> Mapping[Slot, Rows]:
    """The rows of every image of these cohorts; together they must not need more than a call has.

    An image whose place in the engine is below `places` has that place in the call, if it is free.
    """
    if rows_per_image == 1:
        return {slot: (slot.place, None) for cohort in cohorts for slot in cohort.slots}
    apart = sum(len(cohort.slots) for cohort in cohorts) <= places
    free = set(range(2 * places))
    found: dict[Slot, Rows] = {}
    # Whole places are given first: later each might have lost a row to an image that needs one.
    for cohort in sorted(cohorts, key=lambda each: not each.guiding):
        for slot in cohort.slots:
            if apart or cohort.guiding:
                place = _whole_place(slot.place % places, free, places)
                found[slot] = (place + places, place)
                free -= {place + places, place}
            else:
                own = (slot.place + places) % (2 * places)
                row = own if own in free else min(free)
                found[slot] = (row, None)
                free.remove(row)
    return found


def _whole_place(home: int, free: set[int], places: int) -> int:
    """A place of which both rows are free: `home`, if it is one."""
    free_places = {place for place in range(places) if {place, place + places} <= free}
    return home if home in free_places else min(free_places)

"""Exact counts of images, without a row that everybody has to update.

Each transition appends signed numbers, and a count is their sum. A counter in one row would make
all workers of a job wait for each other; rows that are only added never do. `fold` replaces many
rows by their sum now and then, so that there stay few.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session, aliased

from imagemill.db.queries.bulk import insert_few
from imagemill.db.states import ImageState
from imagemill.db.tables import Tally

FOLD_AT_MOST = 20_000
"""Tally rows folded in one transaction."""

Place = tuple[int, int]
"""(job id, group id)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many images of a job are in each state."""

    ready: int = 0
    leased: int = 0
    done: int = 0
    dead: int = 0
    cancelled: int = 0

    @property
    def requested(self) -> int:
        """Every image of the job."""
        return self.ready + self.leased + self.done + self.dead + self.cancelled

    @property
    def pending(self) -> int:
        """Images not in a terminal state."""
        return self.ready + self.leased


def add_images(session: Session, added: Mapping[tuple[int, int, ImageState], int]) -> None:
    """Count new images by (job, group, state)."""
    _append(session, added)


def move_images(
    session: Session, places: Iterable[Place], *, source: ImageState, target: ImageState
) -> None:
    """Count images that went from one state to another, one `Place` an image."""
    moved: Counter[tuple[int, int, ImageState]] = Counter()
    for job_id, group_id in places:
        moved[job_id, group_id, source] -= 1
        moved[job_id, group_id, target] += 1
    _append(session, moved)


def count_images(session: Session, job_ids: Iterable[int]) -> dict[int, Counts]:
    """The exact counts of each job."""
    ids = list(job_ids)
    found: dict[int, dict[str, int]] = {job_id: {} for job_id in ids}
    rows = session.execute(
        select(Tally.job_id, Tally.state, func.sum(Tally.delta))
        .where(Tally.job_id.in_(ids), Tally.state.in_(list(ImageState)))
        .group_by(Tally.job_id, Tally.state)
    )
    for job_id, state, total in rows:
        found[job_id][state] = int(total)
    return {job_id: Counts(**states) for job_id, states in found.items()}


def fold(session: Session, *, at_most: int = FOLD_AT_MOST) -> int:
    """Replace tallies of the same job, group and state by their sum; how many rows that saved.

    Two processes may fold at once. Each row is deleted by one of them only, and its number goes
    into the sum that this one writes in the same transaction.
    """
    other = aliased(Tally)
    addable = (
        select(Tally.id)
        .where(
            exists().where(
                other.state == Tally.state,
                other.job_id == Tally.job_id,
                other.group_id == Tally.group_id,
                other.id != Tally.id,
            )
        )
        .order_by(Tally.id)
        .limit(at_most)
        .with_for_update(skip_locked=True)
        .cte("addable")
        .prefix_with("MATERIALIZED")
    )
    gone = session.execute(
        delete(Tally)
        .where(Tally.id.in_(select(addable.c.id)))
        .returning(Tally.job_id, Tally.group_id, Tally.state, Tally.delta)
    ).all()
    sums: Counter[tuple[int, int, ImageState]] = Counter()
    for job_id, group_id, state, delta in gone:
        sums[job_id, group_id, ImageState(state)] += delta
    return len(gone) - _append(session, sums)


def _append(session: Session, deltas: Mapping[tuple[int, int, ImageState], int]) -> int:
    rows = [
        {"job_id": job_id, "group_id": group_id, "state": state, "delta": delta}
        for (job_id, group_id, state), delta in deltas.items()
        if delta
    ]
    insert_few(session, Tally, rows)
    return len(rows)

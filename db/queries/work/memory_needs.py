"""What models need of a card's memory, as workers found it out, and what therefore does not fit.

A need is a lower bound: what was measured, or the size of a card that was too small. So no worker
is kept from what it could render, and what nobody has tried is tried.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import case, or_, select, update
from sqlalchemy.orm import Session

from imagemill.db.queries.bulk import insert_new
from imagemill.db.tables import MemoryNeed


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """The memory that a worker has for models, in bytes, and how it runs them.

    `tuning` is a SHA-256: workers with the same one need the same memory for a model.
    """

    memory_bytes: int
    tuning: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What is known of a model or a group: 0 is nothing. See `MemoryNeed`."""

    needed_bytes: int
    too_small_bytes: int


def record_need(
    session: Session, *, key: str, tuning: str, device: str, needed: int = 0, too_small: int = 0
) -> None:
    """Record what was found out, in bytes; what was known already stays if it says more.

    `key` is a weights digest or a group's key, `device` a class of devices.
    """
    values = {"key": key, "tuning": tuning, "device": device}
    session.execute(insert_new(session, MemoryNeed, values))
    known, refused = MemoryNeed.needed_bytes, MemoryNeed.too_small_bytes
    session.execute(
        update(MemoryNeed)
        .where(
            MemoryNeed.key == key,
            MemoryNeed.tuning == tuning,
            or_(known < needed, refused < too_small),
        )
        .values(
            device=device,
            needed_bytes=case((known < needed, needed), else_=known),
            too_small_bytes=case((refused < too_small, too_small), else_=refused),
        )
    )


def find_needs(session: Session, *, tuning: str, keys: Collection[str]) -> dict[str, Need]:
    """What is known of these models and groups, by key."""
    rows = session.execute(
        select(MemoryNeed.key, MemoryNeed.needed_bytes, MemoryNeed.too_small_bytes).where(
            MemoryNeed.tuning == tuning, MemoryNeed.key.in_(list(keys))
        )
    )
    return {key: Need(needed_bytes=needed, too_small_bytes=small) for key, needed, small in rows}


def list_too_large(session: Session, card: Card) -> frozenset[str]:
    """The keys of all models and groups that do not fit into a card's memory."""
    return frozenset(
        session.scalars(
            select(MemoryNeed.key).where(
                MemoryNeed.tuning == card.tuning,
                or_(
                    MemoryNeed.needed_bytes > card.memory_bytes,
                    MemoryNeed.too_small_bytes >= card.memory_bytes,
                ),
            )
        )
    )

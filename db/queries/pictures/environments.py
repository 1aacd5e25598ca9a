"""What workers find out about their devices and share: certificates, and B for each group."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from imagemill.db.queries.bulk import insert_new
from imagemill.db.tables import BatchSize, Environment

CERTIFICATE_VERSION = 2
"""Raised when certificates test more than before. 2: images that share a place of a pass."""


def environment_id(session: Session, *, fingerprint: str, document: dict[str, Any]) -> int:
    """The id of an environment, recorded once per distinct fingerprint."""
    known = select(Environment.id).where(Environment.fingerprint == fingerprint)
    found = session.scalar(known)
    if found is not None:
        return found
    values = {"fingerprint": fingerprint, "document": document}
    session.execute(insert_new(session, Environment, values))
    return session.scalars(known).one()


def certificate(session: Session, environment_id: int) -> dict[str, Any] | None:
    """The certificate of an environment; None if it was never tested.

    One of an earlier version, which tested less, counts as none.
    """
    found: dict[str, Any] | None = session.scalars(
        select(Environment.certificate).where(Environment.id == environment_id)
    ).one()
    current = found is not None and found.get("version", 1) >= CERTIFICATE_VERSION
    return found if current else None


def record_certificate(session: Session, environment_id: int, document: dict[str, Any]) -> None:
    """Keep an environment's certificate; the newest one counts."""
    session.execute(
        update(Environment)
        .where(Environment.id == environment_id)
        .values(certificate=document | {"version": CERTIFICATE_VERSION})
    )


def batch_size(session: Session, *, device: str, group_id: int) -> int | None:
    """B for a group on a class of device, as the workers agreed; None if they have not yet."""
    return session.scalars(
        select(BatchSize.slots).where(BatchSize.device == device, BatchSize.group_id == group_id)
    ).first()


def agree_on_batch_size(session: Session, *, device: str, group_id: int, slots: int) -> int:
    """Propose B for a group on a class of device. Returns what counts: the first proposal."""
    values = {"device": device, "group_id": group_id, "slots": slots}
    session.execute(insert_new(session, BatchSize, [values]))
    agreed = batch_size(session, device=device, group_id=group_id)
    assert agreed is not None, "it was just inserted, and rows are never deleted"
    return agreed


def shrink_batch_size(session: Session, *, device: str, group_id: int, slots: int) -> int:
    """Lower B after running out of memory, unless it is lower already. Returns what counts now."""
    agree_on_batch_size(session, device=device, group_id=group_id, slots=slots)
    session.execute(
        update(BatchSize)
        .where(BatchSize.device == device, BatchSize.group_id == group_id)
        .values(slots=case((BatchSize.slots > slots, slots), else_=BatchSize.slots))
    )
    agreed = batch_size(session, device=device, group_id=group_id)
    assert agreed is not None
    return agreed


def device_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """The name of an environment's device by its driver, and its kind: `cuda` or `cpu`."""
    kind = str(document.get("device", "unknown"))
    return str(document.get("device_name") or kind), kind

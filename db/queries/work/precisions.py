"""What `dtype = "fastest"` means for a model on a kind of processor, as workers agreed on it."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from imagemill.db.queries.bulk import insert_new
from imagemill.db.tables import FastestPrecision


def fastest_precision(
    session: Session, *, weights_digest: str, device: str, torch: str
) -> str | None:
    """`fp32` or `bf16`; None if no worker has tried. `torch` is a version."""
    return session.scalars(
        select(FastestPrecision.precision).where(
            FastestPrecision.weights_digest == weights_digest,
            FastestPrecision.device == device,
            FastestPrecision.torch == torch,
        )
    ).first()


def agree_on_precision(
    session: Session,
    *,
    weights_digest: str,
    device: str,
    torch: str,
    precision: str,
    bf16_speed: float,
) -> str:
    """Propose a precision. Returns what counts: the first proposal."""
    found = {"weights_digest": weights_digest, "device": device, "torch": torch}
    values = {**found, "precision": precision, "bf16_speed": bf16_speed}
    session.execute(insert_new(session, FastestPrecision, [values]))
    agreed = fastest_precision(session, weights_digest=weights_digest, device=device, torch=torch)
    assert agreed is not None, "it was just inserted, and rows are never deleted"
    return agreed

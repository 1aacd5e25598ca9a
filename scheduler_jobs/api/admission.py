"""Admits requests: repeated ones are found again, and limits are kept exactly.

What a key has asked for is counted and recorded in one transaction that holds the key's row. So
requests that come at the same moment can't pass a limit together.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from imagemill.db.queries.api import requests
from imagemill.db.queries.api.keys import lock_key
from imagemill.db.queries.api.requests import NewRequest, Request
from imagemill.db.seeds import SEED_LIMIT
from imagemill.db.specs import sha256_of
from imagemill.scheduler_jobs.api import metrics
from imagemill.scheduler_jobs.api.access import Caller
from imagemill.scheduler_jobs.api.refusals import NOT_AGAIN, ApiError, too_many

_MOST_KEY = 255
_OPEN_SECONDS = 5
_BACKLOG_SECONDS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiLimits:
    """Limits of a server for everybody.

    A request waits for its pictures for `wait_seconds`. Nothing is taken while `backlog` images
    are ready. An uploaded file has at most `file_bytes`.
    """

    wait_seconds: float = 300.0
    backlog: int = 1_000_000
    file_bytes: int = 64 << 20


def new_request(
    kind: str, caller: Caller, asked: Mapping[str, Any], *, key: str | None, images: int
) -> NewRequest:
    """A request that may be recorded. `asked` is what tells it from others.

    Without an `Idempotency-Key` of the client it gets one of its own. The seed of its job is
    random; seeds that the client gives win over it.
    """
    if key is not None and not (0 < len(key) <= _MOST_KEY and key.isprintable()):
        raise ApiError(
            f"Idempotency-Key: 1 to {_MOST_KEY} printable characters",
            param="Idempotency-Key",
            code="invalid_value",
        )
    request_id = f"{'batch' if kind == requests.BATCH else 'imgreq'}_{secrets.token_hex(16)}"
    return NewRequest(
        id=request_id,
        kind=kind,
        owner=caller.name,
        idempotency_key=request_id if key is None else key,
        fingerprint=sha256_of(json.dumps([kind, dict(asked)], sort_keys=True)),
        images=images,
        seed=secrets.randbelow(SEED_LIMIT),
        document={},
    )


def repeated(session: Session, new: NewRequest) -> Request | None:
    """The request that this one repeats. Raises `ApiError` if its key was another request's."""
    found = requests.find_repeated(session, new.owner, new.idempotency_key or "")
    if found is not None and found.fingerprint != new.fingerprint:
        raise ApiError(
            "This Idempotency-Key was sent with another request",
            status=422,
            kind="idempotency_error",
            param="Idempotency-Key",
            code="idempotency_key_reused",
            headers=NOT_AGAIN,
        )
    return found


def admit(
    session: Session, caller: Caller, new: NewRequest, *, limits: ApiLimits, route: str
) -> Request:
    """Record a request, or find the one that it repeats. Raises `ApiError` at a limit."""
    if caller.name:
        lock_key(session, caller.name)
    found = check_admission(session, caller, new, limits=limits, route=route)
    if found is not None:
        return found
    made = requests.record(session, new)
    found = made or repeated(session, new)
    assert found is not None, "what has taken the key is recorded"
    return found


def check_admission(
    session: Session, caller: Caller, new: NewRequest, *, limits: ApiLimits, route: str
) -> Request | None:
    """The request that this one repeats, or None if it may be recorded now. Raises `ApiError`.

    Without the lock of `admit`, two requests at the same moment may both be told that they may.
    """
    found = repeated(session, new)
    if found is not None:
        return found
    _check_quota(session, caller, new.images)
    if requests.backlog_of(session, route) >= limits.backlog:
        raise too_many(
            f"{limits.backlog:,} images are waiting already; try again later",
            code="backlog_full",
            seconds=_BACKLOG_SECONDS,
        )
    return None


def count_admitted(new: NewRequest, recorded: Request) -> None:
    """Count the images of a request that was admitted, unless it repeats another."""
    if recorded.id == new.id:
        metrics.IMAGES.labels(new.kind).inc(new.images)


def with_document(new: NewRequest, document: Mapping[str, Any], **changes: Any) -> NewRequest:
    """A request with what is needed to load it."""
    return replace(new, document=dict(document), **changes)


def _check_quota(session: Session, caller: Caller, images: int) -> None:
    if caller.images_a_day is None and caller.open_images is None:
        return
    usage = requests.usage_of(session, caller.name)
    if caller.images_a_day is not None and usage.today + images > caller.images_a_day:
        error = too_many(
            f"{caller.images_a_day:,} images a day are allowed; {usage.today:,} were asked for "
            f"today, and this asks for {images:,} more",
            code="daily_quota_exceeded",
            seconds=usage.seconds_to_midnight,
        )
        error.headers |= NOT_AGAIN
        raise error
    if caller.open_images is None:
        return
    if images > caller.open_images:
        raise ApiError(
            f"This asks for {images:,} images; {caller.open_images:,} at once are allowed",
            code="open_quota_too_small",
        )
    if usage.open + images > caller.open_images:
        raise too_many(
            f"{caller.open_images:,} images at once are allowed, and {usage.open:,} are not over",
            code="open_quota_exceeded",
            seconds=_OPEN_SECONDS,
        )

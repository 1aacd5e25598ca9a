"""Addresses of pictures that open without a key: signed, and good for a day.

They are signed with what the database knows of the owner's key. So they open on every server of
the same database, and no more when the key is revoked.
"""

import hashlib
import hmac
import time

from sqlalchemy.orm import Session
from starlette.requests import Request

from imagemill.db.queries.api.keys import signing_secret
from imagemill.scheduler_jobs.api.access import Caller

GOOD_SECONDS = 86_400


def picture_address(base: str, image_id: int, *, owner: str, secret: str | None) -> str:
    """Where a picture can be fetched from. Without a secret nobody asks for a signature."""
    place = f"{base}/pictures/{image_id}"
    if secret is None:
        return place
    until = int(time.time()) + GOOD_SECONDS
    return f"{place}?owner={owner}&until={until}&signature={_signature(secret, image_id, until)}"


def is_signed(session: Session, request: Request, image_id: int) -> bool:
    """Whether the address of a picture has a good signature that is not too old."""
    given = request.query_params
    until, owner = given.get("until", ""), given.get("owner", "")
    secret = signing_secret(session, owner)
    if secret is None or not until.isdecimal() or len(until) > 12 or int(until) < time.time():
        return False
    wanted = _signature(secret, image_id, int(until))
    return hmac.compare_digest(given.get("signature", "").encode(), wanted.encode())


def secret_of(session: Session, caller: Caller) -> str | None:
    """What addresses for this caller are signed with; None where no key is asked for."""
    return signing_secret(session, caller.name) if caller.name else None


def base_of(request: Request) -> str:
    """The address of this server, as the client wrote it."""
    return str(request.base_url).rstrip("/")


def _signature(secret: str, image_id: int, until: int) -> str:
    text = f"{image_id} {until}".encode()
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()

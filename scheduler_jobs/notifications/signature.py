"""Signatures of webhooks by the Standard Webhooks specification, version 1 (symmetric).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from imagemill.db.errors import SettingsError

PREFIX = "whsec_"

_LEAST_BYTES, _MOST_BYTES = 24, 64
"""Of a secret, by the specification."""


def read_secrets(text: str) -> tuple[bytes, ...]:
    """The keys of secrets with spaces between them. Raises `SettingsError`, which quotes none."""
    keys = []
    for word in text.split():
        try:
            key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not word.startswith(PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
            raise SettingsError(
                f"IMAGEMILL_NOTIFY_SECRET: a secret is {PREFIX} and the base64 of {_LEAST_BYTES} "
                f'to {_MOST_BYTES} random bytes: echo "{PREFIX}$(openssl rand -base64 32)"'
            )
        keys.append(key)
    return tuple(keys)


def signed_headers(
    keys: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three headers of a message, with a signature by each key. `timestamp` is Unix time."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(each).decode()}" for each in signatures
        ),
    }

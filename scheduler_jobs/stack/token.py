"""The token of `imagemill join`: where the first machine is, its certificate, a worker's keys."""

import base64
import binascii
import json
from dataclasses import asdict, dataclass, field

from imagemill.db.errors import UsageError

_PREFIX = "imagemill-join-1."


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinToken:
    """`fingerprint` is the SHA-256 of the certificate (DER) in hexadecimal digits.

    The three passwords are those of a worker: it may claim images and record results.
    """

    host: str
    port: int
    fingerprint: str
    database: str = field(repr=False)
    broker: str = field(repr=False)
    s3: str = field(repr=False)

    def encoded(self) -> str:
        """The token as one word."""
        document = json.dumps(asdict(self)).encode()
        return _PREFIX + base64.urlsafe_b64encode(document).decode().rstrip("=")

    @classmethod
    def decoded(cls, text: str) -> "JoinToken":
        """Read a token. Raises `UsageError`, which does not quote it."""
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise UsageError("this is no token; `imagemill env --join` prints it on the first one")
        try:
            body = text.removeprefix(_PREFIX)
            padded = body + "=" * (-len(body) % 4)
            return cls(**json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)))
        except (binascii.Error, ValueError, TypeError):
            raise UsageError("this token is not complete; copy the whole of it") from None

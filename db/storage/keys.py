"""Keys: the names of objects, and the one place that says which are allowed.

A key is a few segments joined with `/`. A segment starts with a letter or digit and holds only
letters, digits, `.`, `_` and `-`. So no key can leave the store (`..`), hide in it (a leading
dot), or need quoting in a path, a URL or a shell; names with a leading dot stay free for the
store's own temporary files.
"""

import re

from imagemill.db.errors import BadKey

MAX_KEY_BYTES = 512
"""S3 allows 1,024 bytes; the store's own prefix takes its part of them."""

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_HEX = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"[a-z0-9]{1,8}")


def checked_key(key: str) -> str:
    """The key itself, if it is one; else `BadKey`. Every method that takes a key starts here."""
    if len(key) > MAX_KEY_BYTES or _KEY.fullmatch(key) is None:
        shown = key if len(key) <= 80 else key[:80] + "…"
        raise BadKey(
            f"{shown!r} is no object key: use letters, digits, '.', '_' and '-', "
            f"with '/' between the segments, at most {MAX_KEY_BYTES} bytes"
        )
    return key


def is_key(name: str) -> bool:
    """Whether an object of that name could be one of ours; a listing skips what isn't."""
    return len(name) <= MAX_KEY_BYTES and _KEY.fullmatch(name) is not None


def object_key(request_key: str, content_sha256: str, suffix: str) -> str:
    """The key of a picture: `{rk[:2]}/{rk}-{sha256}.{suffix}`.

    `request_key` and `content_sha256` are 64 lower-case hex digits, `suffix` is the format's
    file suffix without a dot. The content's hash is part of the key, so whoever writes under it
    writes the same bytes; two characters of folder keep a folder store's folders small.
    """
    for name, value in (("request_key", request_key), ("content_sha256", content_sha256)):
        if _HEX.fullmatch(value) is None:
            raise BadKey(f"{name} {value[:80]!r} is not 64 lower-case hex digits")
    if _SUFFIX.fullmatch(suffix) is None:
        raise BadKey(f"suffix {suffix[:80]!r} is not 1 to 8 lower-case letters or digits")
    return f"{request_key[:2]}/{request_key}-{content_sha256}.{suffix}"

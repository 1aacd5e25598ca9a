"""Keys, the names of objects: which names are allowed, and how a picture's key is made.

A key is a few segments joined with `/`. A segment starts with a letter or digit and contains only
letters, digits, `.`, `_` and `-`. So no key can leave the store (`..`) or hide in it (a leading
dot), and none needs quoting in a path, a URL or a shell. Names with a leading dot are left for
the store's own temporary files.
"""

import re

from imagemill.db.errors import BadKey

MAX_KEY_BYTES = 512
"""S3 allows 1,024 bytes, and the store's prefix needs some of them."""

KERNELS = "kernels"
"""The folder of compiled kernels, which no image owns (`compile_cache`)."""

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_HEX = re.compile(r"[0-9a-f]{64}")
_PICTURE = re.compile(r"[0-9a-f]{2}/(?P<request_key>[0-9a-f]{64})-[0-9a-f]{64}\.[a-z0-9]{1,8}")
_SUFFIX = re.compile(r"[a-z0-9]{1,8}")


def checked_key(key: str) -> str:
    """The key itself if it is allowed, else `BadKey`. Every method with a key calls this first."""
    if len(key) > MAX_KEY_BYTES or _KEY.fullmatch(key) is None:
        shown = key if len(key) <= 80 else key[:80] + "…"
        raise BadKey(
            f"{shown!r} is no object key: use letters, digits, '.', '_' and '-', "
            f"with '/' between the segments, at most {MAX_KEY_BYTES} bytes"
        )
    return key


def is_key(name: str) -> bool:
    """Whether a name is allowed as a key. Listings skip all other names."""
    return len(name) <= MAX_KEY_BYTES and _KEY.fullmatch(name) is not None


def request_key_of(key: str) -> str | None:
    """The request key in a picture's key; None for a key that `object_key` never makes."""
    found = _PICTURE.fullmatch(key)
    return None if found is None else found["request_key"]


def object_key(request_key: str, content_sha256: str, suffix: str) -> str:
    """The key of a picture: `{rk[:2]}/{rk}-{sha256}.{suffix}`.

    `request_key` and `content_sha256` are 64 lower-case hex digits, `suffix` is the format's
    file suffix without a dot. The content's hash is part of the key, so all writers of a key write
    the same bytes. The first two characters make folders, so that no folder gets too many files.
    Raises `BadKey` if a part is not as described.
    """
    for name, value in (("request_key", request_key), ("content_sha256", content_sha256)):
        if _HEX.fullmatch(value) is None:
            raise BadKey(f"{name} {value[:80]!r} is not 64 lower-case hex digits")
    if _SUFFIX.fullmatch(suffix) is None:
        raise BadKey(f"suffix {suffix[:80]!r} is not 1 to 8 lower-case letters or digits")
    return f"{request_key[:2]}/{request_key}-{content_sha256}.{suffix}"
